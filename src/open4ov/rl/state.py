"""Where a training of online RL stands, and its checkpoints: all that decides how it goes on.

Besides weights and optimizer (`checkpoints.py`) these are the cursors over tasks and replayed samples, the
oversampling, the failed tasks, the curve (which tells the phase) and the weights' version. Nothing else is drawn at
random: a response samples from a stream that the seed, the step and its task name. Features of pictures are not in it:
see `held_pictures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from open4ov import training
from open4ov.checkpoints import Checkpoint
from open4ov.engine import VisionCache
from open4ov.errors import UserError
from open4ov.functions import foreign
from open4ov.keeper import Keeper
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import RlSection
from open4ov.recipe_rl import UNREAD
from open4ov.rl.distance import encoders
from open4ov.rl.failed import Failures
from open4ov.rl.policy import Policy
from open4ov.rl.rollout import Group
from open4ov.rl.sampling import Cursor, RatioEma
from open4ov.rl.tasks import Task
from open4ov.sample import Sample, content_id
from open4ov.training import Optimizer

Curve = list[dict[str, Any]]


@dataclass
class State:
    """`pool`: the tasks, by id. `barren`: steps in a row without a live group; `rolled`: groups that were rolled out,
    `unused`: those of them that were not trained on; `replay`: over the samples of SFT, `replayed` of which were used;
    `version`: of the weights; `first`: groups of the first step, to be shown."""

    optimizer: Optimizer
    pool: dict[str, Task]
    cursor: Cursor
    ratio: RatioEma
    failures: Failures
    replay: Cursor | None
    identity: str
    curve: Curve = field(default_factory=list)
    version: int = 0
    barren: int = 0
    rolled: int = 0
    unused: int = 0
    replayed: int = 0
    no_verdict: int = 0
    """Symbolic answers that nobody could compare in time; they count as wrong"""
    first: dict[str, Any] | None = None
    coming: dict[str, Any] | None = None
    """Rollouts of the next step that were generated ahead (`generation/feed.py`)"""

    @staticmethod
    def begin(
        model: Policy,
        tasks: Sequence[Task],
        section: RlSection,
        seed: int,
        failures: Failures | None,
        replayed: Sequence[Sample],
    ) -> State:
        """A training that has not begun: the tower is frozen, where it is to be. Raises UserError for a pool with fewer
        tasks than a step has."""
        pool = {task.sample.id: task for task in tasks}
        if section.steps and len(pool) < section.prompts:
            raise UserError(f"rl.prompts: {section.prompts} tasks make a step, and the pool has {len(pool)}")
        if section.freeze_vision:
            training.freeze_vision(model)
        return State(
            optimizer=training.adamw(model, section.learning_rate),
            pool=pool,
            cursor=Cursor(pool, seed),
            ratio=RatioEma(section.oversampling),
            failures=failures or Failures(),
            replay=Cursor([sample.id for sample in replayed], f"replay {seed}") if replayed else None,
            identity=_identity(section, seed, pool, replayed, training.kind(section.precision, model.device)),
        )

    @property
    def done(self) -> int:
        """Steps that are done."""
        return len(self.curve)

    def tasks(self, prompts: int, before: Sequence[Task] = ()) -> list[Task]:
        """Those that the next step rolls out, so that it has `prompts` to train on; with `before`, those of the step
        after these, which are not settled yet. Nothing moves."""
        cursor = self.cursor.after([task.sample.id for task in before]) if before else self.cursor
        return [self.pool[name] for name in cursor.take(min(self.ratio.count(prompts), len(self.pool)))]

    def settle(self, groups: Sequence[Group], chosen: Sequence[Group], point: dict[str, Any]) -> None:
        """One step is over: these were rolled out, those of them trained on, and `point` was computed. Live ones that
        were not trained on come again."""
        used = {group.task.sample.id for group in chosen}
        unused = [group for group in groups if group.task.sample.id not in used]
        self.cursor.settle(
            [group.task.sample.id for group in groups], [group.task.sample.id for group in unused if not group.dead]
        )
        dead = fmean(group.dead for group in groups)
        self.version += 1
        told = {
            "rolled": len(groups),
            "unused": len(unused),
            "dead_trained": round(fmean(group.dead for group in chosen), 4),
            "oversampling": round(self.ratio.value, 4),
        }
        self.curve.append({**point, **told, "weight_version": self.version})
        self.ratio.see(dead)
        self.failures.see(groups)
        self.barren = self.barren + 1 if dead == 1 else 0
        self.rolled += len(groups)
        self.unused += len(unused)

    def summary(self, section: RlSection) -> dict[str, Any]:
        """What the whole training came to; `last_*`: means over the last fifth of the steps."""
        tail = self.curve[-max(1, len(self.curve) // 5) :]
        switched = next((point["step"] for point in self.curve if point["phase"] == "diversity"), None)
        found: dict[str, Any] = {
            "steps": self.done,
            "responses": self.rolled * section.group,
            "rolled": self.rolled,
            "unused": self.unused,
            "tasks": len(self.pool),
            "epoch": self.cursor.epoch,
            "diversity_from_step": switched,
            "no_verdict": self.no_verdict,
        }
        if self.replay:
            found["replayed"] = self.replayed
        means = ("pass_rate", "length", "entropy") if tail else ()
        return {**found, **{f"last_{key}": round(fmean(point[key] for point in tail), 4) for key in means}}

    def save(self, keeper: Keeper) -> None:
        """Writes a checkpoint. Raises as `keeper` does."""
        notes: dict[str, Any] = {name: getattr(self, name) for name in _NOTED}
        notes |= {"cursor": self.cursor.notes(), "ratio": self.ratio.value, "failures": self.failures.notes()}
        if self.replay:
            notes["replay"] = self.replay.notes()
        keeper.save(Checkpoint(self.done, self.identity, self.curve, notes))

    def resume(self, keeper: Keeper) -> None:
        """Takes up the newest checkpoint of the same training, if there is one."""
        found = keeper.load(self.identity)
        if found is None:
            return
        self.curve, notes = found.curve, found.notes
        for name in _NOTED:
            setattr(self, name, notes[name])
        self.cursor.restore(notes["cursor"])
        self.ratio.value = notes["ratio"]
        self.failures.restore(notes["failures"], self.pool.values())
        if self.replay:
            self.replay.restore(notes["replay"])


_NOTED = ("version", "barren", "rolled", "unused", "replayed", "no_verdict", "first", "coming")


def held_pictures(
    model: Qwen3VL, processor: Processor, section: RlSection, pool: int, replayed: bool = False
) -> VisionCache:
    """Where features of pictures are held, for the rollout as for the update.

    A training that was interrupted must compute them anew to the last bit, and the rounding of a pass depends on what
    else is in it. So a picture that may come again, of a frozen tower, passes the tower by itself, once in a run as far
    as there is room. Where every task comes once, the pictures of a step pass it together, which is faster, and are
    held for that step only (`trainer.py` clears them).
    """
    once = pool >= section.steps * section.prompts and not section.oversampling.enabled and not replayed
    alone = section.freeze_vision and (section.rollout.ahead or not once)
    return VisionCache(model, processor, round(section.vision_cache_gib * 2**30), alone=alone)


def _identity(section: RlSection, seed: int, pool: dict[str, Task], replayed: Sequence[Sample], kind: str) -> str:
    """What it is a training of. `kind`: what it is computed in (`training.kind`)."""
    read = {**section.model_dump(exclude={**UNREAD, "device": True}), "precision": kind}
    own = [foreign(section.reward, "rl.reward"), encoders.identity(section.embedder)]
    return content_id("rl", read, own, seed, list(pool), [sample.id for sample in replayed])
