"""Stages as a graph: content keys, atomic outputs, resume. Knows nothing of what the stages do."""

from __future__ import annotations

import gc
import random
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from open4ov import changes, memory
from open4ov.errors import RefusedError, UserError, nearest
from open4ov.progress import Reporter
from open4ov.recipe import Recipe
from open4ov.run_dir import Place, disk_full, hash_json, read_json
from open4ov.store import ImageStore, is_disk_full, sweep

if TYPE_CHECKING:
    from open4ov.parallel.crew import Crew

VERSION = metadata.version("open4ov")


@dataclass
class StageRun:
    """What a stage is given: the recipe, its inputs, and places to write.

    `out` becomes the stage's folder when `run` returns. `scratch` survives a kill as long as the stage's key stays the
    same. `inputs` maps each input stage to its finished folder.
    """

    recipe: Recipe
    out: Path
    scratch: Path
    inputs: dict[str, Path]
    images: ImageStore
    seed: int
    stage: str
    _reporter: Reporter = field(repr=False)
    crew: Crew | None = field(default=None, repr=False)
    """The other processes of the run, where there are some (`together.py`)"""

    def progress(self, description: str, done: float, total: float) -> None:
        """Says how far the stage is; cheap enough to call at every step."""
        self._reporter.progress(self.stage, description, done, total)

    def note(self, text: str) -> None:
        """Tells the user something that asks for a look, in one line."""
        self._reporter.note(self.stage, text)

    def log(self, figures: dict[str, Any]) -> None:
        """Hands figures to whoever listens (`--json`); what must last belongs into `out`."""
        self._reporter.log(self.stage, figures)


@dataclass(frozen=True)
class Stage:
    """One node. `config` gives all of the recipe (and of files outside the run) that the output depends on, shaped as
    the recipe is (`changes.py` tells what of it has changed).

    `unanswered` says of the finished folder what making it anew may still bring, in a line; empty when nothing.
    `check` raises UserError for what the stage would stumble over on this machine; it is called before any stage runs,
    and only when this one will.
    """

    name: str
    inputs: tuple[str, ...]
    config: Callable[[Recipe], BaseModel | dict[str, Any]]
    run: Callable[[StageRun], None]
    unanswered: Callable[[Path], str] | None = None
    check: Callable[[Recipe], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one stage, and the seconds it took."""

    stage: str
    status: Literal["done", "skipped"]
    seconds: float


class Graph:
    """Stages in an order in which inputs come first."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages: dict[str, Stage] = {}
        for stage in stages:
            assert stage.name not in self.stages, f"two stages are called {stage.name}"
            assert all(name in self.stages for name in stage.inputs), f"{stage.name} comes before one of its inputs"
            self.stages[stage.name] = stage

    def needed(self, until: str | None) -> list[Stage]:
        """All stages, or `until` and those it is made from, in order. Raises UserError for a name that is none."""
        if until is None:
            return list(self.stages.values())
        if until not in self.stages:
            raise UserError(f"--until {until}: there is no such stage{nearest(until, self.stages)}")
        wanted = {until}
        for stage in reversed(self.stages.values()):
            if stage.name in wanted:
                wanted.update(stage.inputs)
        return [stage for stage in self.stages.values() if stage.name in wanted]

    def run(
        self,
        recipe: Recipe,
        root: Path,
        reporter: Reporter,
        until: str | None = None,
        retry: bool = False,
        crew: Crew | None = None,
    ) -> list[Outcome]:
        """Brings the stages up to date in the run directory `root`, which must exist and be locked by the caller.

        A stage whose key is that of its folder is skipped; with `retry` not one that has something `unanswered`, which
        is made anew beside the finished one. Raises UserError when the disk is full or a stage refuses
        its input; finished stages stay as they are.
        """
        stages = self.needed(until)
        images = ImageStore(root / "image-store")
        sweep(root)
        for stage in self._stale(stages, recipe, root):
            if stage.check:
                stage.check(recipe)
        try:
            return self._bring(stages, recipe, root, images, reporter, retry, crew)
        finally:
            gc.unfreeze()

    def _bring(
        self,
        stages: Sequence[Stage],
        recipe: Recipe,
        root: Path,
        images: ImageStore,
        reporter: Reporter,
        retry: bool,
        crew: Crew | None,
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for position, stage in enumerate(stages, 1):
            place = Place(root, stage.name)
            place.recover()
            made_from = {name: Place(root, name).lineage() for name in stage.inputs}
            facts = _facts(stage, recipe, made_from)
            key = hash_json(facts)
            intact = place.intact(key)
            lacks = stage.unanswered(place.final) if intact and stage.unanswered else ""
            if intact and not (retry and lacks):
                place.drop_scratch()
                reporter.skipped(stage.name, position, len(stages))
                if lacks:
                    reporter.note(stage.name, lacks)
                elif retry and stage.unanswered:
                    reporter.note(stage.name, "has no question whose answer may still come; nothing is asked again")
                outcomes.append(Outcome(stage.name, "skipped", 0.0))
                continue
            reporter.started(stage.name, position, len(stages))
            begun = place.begun()
            if begun and begun.get("key") != key:
                why = changes.told(begun, facts)
                reporter.note(stage.name, f"was interrupted, and begins anew: {why}")
            elif not begun and (finished := read_json(place.final / "stage.json")) and finished.get("key") != key:
                reporter.note(stage.name, f"is made anew: {changes.told(finished, facts)}")
            resumed = place.prepare(key, facts)
            run = StageRun(
                recipe=recipe,
                out=place.new,
                scratch=place.scratch,
                inputs={name: root / name for name in stage.inputs},
                images=images,
                seed=recipe.seed,
                stage=stage.name,
                _reporter=reporter,
                crew=crew,
            )
            start = time.perf_counter()
            _reset_peak()
            seed_everything(recipe)
            gc.freeze()  # what is there, modules above all, is not looked through for cycles again and again
            try:
                stage.run(run)
                seconds, peak = time.perf_counter() - start, _peak_bytes()
                measured = {"seconds": round(seconds, 3), "peak_bytes": peak, "resumed": resumed}
                place.publish({"key": key, **facts, **measured})
            except RefusedError as error:
                place.set_aside({"stage": stage.name, "key": key, "reason": str(error)})
                if not error.final:
                    place.drop_scratch()
                raise UserError(f"{error}. What was made is kept in {place.failed}") from error
            except BaseException as error:
                shutil.rmtree(place.new, ignore_errors=True)
                if is_disk_full(error) and not isinstance(error, UserError):  # which has said itself what it kept
                    raise disk_full(root, f"in stage {stage.name}") from error
                raise
            gc.collect()
            memory.trim()
            memory.free_card()
            reporter.finished(stage.name, seconds, peak)
            outcomes.append(Outcome(stage.name, "done", seconds))
        return outcomes

    def finished(self, stages: Sequence[Stage], recipe: Recipe, root: Path) -> set[str]:
        """Those whose folders in `root` are as the recipe and their inputs' folders have them. Changes nothing."""
        found: set[str] = set()
        for stage in stages:
            if not found.issuperset(stage.inputs):
                continue
            if Place(root, stage.name).intact(self.key(stage, recipe, root)):
                found.add(stage.name)
        return found

    def key(self, stage: Stage, recipe: Recipe, root: Path) -> str:
        """The key under which a stage is finished in `root`, where all that it is made from must be."""
        return hash_json(_facts(stage, recipe, {name: Place(root, name).lineage() for name in stage.inputs}))

    def identities(self, stages: Sequence[Stage], recipe: Recipe) -> dict[str, str]:
        """Stage -> what it will be made of and how, said before anything is there: two recipes whose stage has the same
        identity make the same of it. `stages`: as `needed` has them."""
        found: dict[str, str] = {}
        for stage in stages:
            made_from = {name: {"key": found[name], "digest": ""} for name in stage.inputs}
            found[stage.name] = hash_json(_facts(stage, recipe, made_from))
        return found

    def _stale(self, stages: Sequence[Stage], recipe: Recipe, root: Path) -> list[Stage]:
        """Those that are not as the recipe has them, and those that are made from such."""
        stale: dict[str, Stage] = {}
        for stage in stages:
            place = Place(root, stage.name)
            place.recover()
            if not stale.keys() & set(stage.inputs) and place.intact(self.key(stage, recipe, root)):
                continue
            stale[stage.name] = stage
        return list(stale.values())


def _facts(stage: Stage, recipe: Recipe, made_from: dict[str, dict[str, str]]) -> dict[str, Any]:
    """All that decides a stage's output; its key is their hash."""
    config = stage.config(recipe)
    return {
        "stage": stage.name,
        "open4ov": VERSION,
        "seed": recipe.seed,
        "config": config.model_dump(mode="json") if isinstance(config, BaseModel) else config,
        "inputs": made_from,
    }


def seed_everything(recipe: Recipe) -> None:
    """The same start for every stage, whichever ran before it."""
    import numpy as np
    import torch

    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    torch.set_flush_denormal(True)
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)  # pyright: ignore[reportUnknownMemberType]


def _reset_peak() -> None:
    """Starts a new high-water mark of resident memory, where the kernel lets us (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_bytes() -> int:
    """The highest resident memory since `_reset_peak` (since the process began, where it could not be reset)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
