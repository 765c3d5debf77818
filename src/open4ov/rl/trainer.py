"""Online RL (paper §4.2.3, stage 1): roll out, reward, score, update; the vision tower is frozen, there is no KL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov import memory, schedules, training
from open4ov.engine import Completion, VisionCache
from open4ov.journal import Clock, Journal
from open4ov.keeper import Keeper
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import RlSection
from open4ov.recipe_rl_rollout import exact
from open4ov.rl import figures, importance, schedule, showing, stops
from open4ov.rl.failed import Failures
from open4ov.rl.generation import generator
from open4ov.rl.generation.feed import Feed
from open4ov.rl.generation.generator import Generator, GeneratorGone
from open4ov.rl.generation.offload import Phases
from open4ov.rl.judging import Judge
from open4ov.rl.policy import Policy
from open4ov.rl.replay import Replay
from open4ov.rl.rollout import Group
from open4ov.rl.sampling import most_even
from open4ov.rl.state import Curve, State, held_pictures
from open4ov.rl.tasks import Task
from open4ov.rl.update import Broken, Updater
from open4ov.sample import Sample
from open4ov.store import ImageStore
from open4ov.training_pass import Spread

FURTHEST = {"fp32": 0.002, "bf16": 0.08}
"""Nats a token that a copy's log-probabilities may be from the policy's in the mean, by what both are computed in"""


@dataclass
class Fit:
    """What a training left besides the changed model. `shown`: groups of its first and last step (`showing.py`)."""

    curve: Curve
    summary: dict[str, Any]
    shown: list[dict[str, Any]]


def fit(
    model: Policy,
    processor: Processor,
    tasks: Sequence[Task],
    section: RlSection,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    *,
    failures: Failures | None = None,
    images: ImageStore | None = None,
    replayed: Sequence[Sample] = (),
    checkpoints: Path | None = None,
    thresholds: Path | None = None,
    folder: Path | None = None,
    name: str = "rl",
    stop_after: int | None = None,
) -> Fit:
    """Trains the model in place: `section.prompts` tasks a step, each answered `section.group` times.

    `failures` counts what was tried. `images` gives the pictures of `replayed` samples, and takes those of groups that
    are shown (None: none are, and none can be replayed). Every `checkpoint_every` steps the state goes to `checkpoints`
    (None: never); a later call with the same tasks and options goes on from there and ends with the same weights, bit
    for bit (docs/rl.md, "Resume", has the exceptions: vLLM, and answers without a verdict). `thresholds`: the folder
    that keeps what `diversity_threshold: auto` sets. `folder`: of the journal (None: there is none), as of `name`.
    `stop_after`: return after that step, as if killed there.

    On many processes all make the same call, and only the first one brings what it is told with: `progress`, `log`,
    `failures`, `folder`. Responses and rewards are shared out, groups are chosen alike on all, and their gradients
    computed by shares.

    Raises UserError for a reward that Pass@k cannot use, a pool with fewer tasks than a step, GeneratorGone, and where
    `rl.no_live` ends the run; what was done is in `checkpoints`. Raises training.Diverged when a loss or gradient is
    not finite, and when log-probabilities are not: of a step's responses, or after the last update.
    """
    state = State.begin(model, tasks, section, seed, failures, replayed)
    if not section.steps:
        return Fit([], state.summary(section), [])
    judge = Judge(section, thresholds)
    if log and section.diversity_threshold == "auto":
        log({"diversity": judge.told})
    keeper = Keeper(checkpoints, model, state.optimizer)
    state.resume(keeper)
    online = _Online(model, processor, section, seed, state, judge, images, replayed, keeper)
    book = Journal(folder, section, state.done, name, state.identity, "rl") if folder else None
    with closing(online), closing(book) if book else nullcontext():
        while state.done < section.steps and state.done != stop_after:
            point = online.step()
            if progress:
                told = f"RL, pass rate {point['pass_rate']:.2f}, {point['length']:.0f} tokens"
                progress(told, state.done, section.steps)
            if log:
                log(point)
            if book:
                book.write(point)
            online.keep()
    return Fit(state.curve, state.summary(section), online.shown)


class _Online:
    """The steps of one call; see `fit`."""

    def __init__(
        self,
        model: Policy,
        processor: Processor,
        section: RlSection,
        seed: int,
        state: State,
        judge: Judge,
        images: ImageStore | None,
        replayed: Sequence[Sample],
        keeper: Keeper,
    ) -> None:
        self.model, self.section, self.state = model, section, state
        self.images, self.keeper = images, keeper
        self.judge = judge
        self.pictures, rolling = _generating(model, processor, section, state, bool(replayed))
        self.rollouts = Feed(rolling, state, section, seed)
        self.phases = Phases(rolling, state.optimizer, section.rollout.offload)
        weighed = importance.wanted(section.rollout.tis, exact(section.rollout))
        copies = isinstance(model, Spread) and exact(section.rollout)
        furthest = FURTHEST[training.kind(section.precision, model.device)] if copies else None
        self.updater = Updater(model, processor, self.pictures, section, weighed, furthest)
        self.replay: Replay | None = None
        if state.replay:
            if images is None:
                raise ValueError("fit: `images` has the pictures of `replayed` samples, and is None")
            behind = sum(point["updates"] for point in state.curve)
            self.replay = Replay(
                replayed, images.get, processor, self.pictures, section, state.replay, behind, state.replayed
            )
        self.groups: list[Group] = []
        self.chosen: list[Group] = []
        self.last: dict[str, Any] | None = None

    def step(self) -> dict[str, Any]:
        """Roll out, reward, score, update. What that computed goes to the curve; it is given with how long it took."""
        state, section, step = self.state, self.section, self.state.done
        clock = Clock(self.model.device)
        phase = schedule.phase(section, state.curve)
        if not self.pictures.alone:
            self.pictures.clear()
        with clock("rollout"), self.phases.generation():
            tasks, responses = self._rolled_out(step)
        if reason := stops.broken(responses):
            raise stops.diverged(reason, step + 1, [task.sample.id for task in tasks], self.keeper.folder)
        with clock("reward"):
            self.groups, unsaid = self.judge.shared(self.model, tasks, responses, phase)
            state.no_verdict += unsaid
            self.chosen = chosen = most_even(self.groups, section.prompts)
        with clock("score"), self.phases.update():
            batch = self.updater.prepare(chosen)
        with clock("update"):
            rate = section.learning_rate * schedules.warmup_cosine(step, section.steps, 0.05, floor=0.1)
            try:
                update = self.updater.apply(batch, state.optimizer, rate, self.replay)
                self.rollouts.stepped()
            except Broken as broken:  # earlier mini-batches have changed the weights
                raise stops.diverged(broken.reason, step + 1, broken.names, self.keeper.folder) from None
        if self.replay:
            state.replayed = self.replay.used
        told = {**figures.of_groups(self.groups, section), "lag": self.rollouts.lag}
        point = {"step": step + 1, "phase": phase, **told, **update.figures()}
        state.settle(self.groups, chosen, {**point, "lr": rate})
        leads = not isinstance(self.model, Spread) or self.model.leads
        if leads and self.images is not None and step in (0, section.steps - 1):
            self._show(showing.shown(self.groups, step + 1, phase, self.images))
        memory.trim()
        rolled = sum(len(response.token_ids) for own in responses for response in own)
        tokens = {"reward": rolled, "score": batch.computed(1), "update": batch.computed()}
        if not section.rollout.ahead:  # else this is how long the step waited, not how long they took
            tokens["rollout"] = rolled
        return {**state.curve[-1], **clock.pace(tokens, rolled)}

    def keep(self) -> None:
        """Writes a checkpoint when its time has come. Raises UserError where `rl.no_live` ends the run, and
        training.Diverged where it has ended, or is to be kept, with a policy that came apart."""
        state, section = self.state, self.section
        ended = state.done == section.steps
        if ended:
            self._check()
        barren = state.barren >= stops.limit(section) and not ended
        if barren or (state.done % section.checkpoint_every == 0 and not ended):
            try:
                self._save(self.rollouts.notes())
            except GeneratorGone:  # while it generated ahead: nobody has those responses
                self._save(None)
                raise
        if barren:
            raise stops.nothing_to_learn(section, state.done, state.barren, self.groups)

    @property
    def shown(self) -> list[dict[str, Any]]:
        return [one for one in (self.state.first, self.last) if one is not None]

    def close(self) -> None:
        with closing(self.keeper):
            self.rollouts.close()

    def _show(self, groups: dict[str, Any]) -> None:
        if self.state.done == 1:
            self.state.first = groups
        else:
            self.last = groups

    def _rolled_out(self, step: int) -> tuple[list[Task], list[list[Completion]]]:
        """The step's tasks and the responses to each. Of the step nothing has changed yet: where the generator is gone,
        the steps before are kept, with the responses if they are there, and the same command goes on."""
        try:
            return self.rollouts.next(step)
        except GeneratorGone:
            self._save(self.rollouts.kept())
            raise

    def _check(self) -> None:
        """The next step's responses would show a policy that came apart: here none may follow."""
        try:
            self.updater.check(self.chosen)
        except Broken as broken:
            raise stops.diverged(broken.reason, self.state.done, broken.names, self.keeper.folder) from None

    def _save(self, coming: dict[str, Any] | None) -> None:
        if self.keeper.folder:
            self._check()
            self.state.coming = coming
            self.state.save(self.keeper)


def _generating(
    model: Policy, processor: Processor, section: RlSection, state: State, replayed: bool
) -> tuple[VisionCache, Generator]:
    """Where features of pictures are held, and who generates."""
    half = training.autocast(section.precision, model.device)

    def build(own: Qwen3VL, pictures: VisionCache) -> Generator:
        return generator.build(own, processor, section.rollout, pictures, autocast=half, version=state.version)

    if not isinstance(model, Spread):
        pictures = held_pictures(model, processor, section, len(state.pool), replayed)
        return pictures, build(model, pictures)
    from open4ov.rl.generation import spread  # brings much in

    twin = spread.copied(model, section.rollout, half)
    sees = twin if twin is not None and section.rollout.backend == "own" else spread.seeing(model)
    pictures = held_pictures(sees, processor, section, len(state.pool), replayed)
    return pictures, spread.SpreadGenerator(
        model, twin, pictures, lambda own: build(own, pictures), section.rollout, state.version
    )
