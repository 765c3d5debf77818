"""A stage's training on several processes: each rank reads its part of the same model, and fits with the others.

Rank 0 has the stage (`trainer.py`): it chooses samples, grades, and saves. For each of its calls of `fit` it writes the
samples to a file and calls the other ranks, which read them; `fit` itself is the same on all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from open4ov import training
from open4ov.model import Processor, Qwen3VL
from open4ov.parallel import pretrained
from open4ov.parallel.agree import agree, files
from open4ov.parallel.crew import Crew
from open4ov.parallel.launch import World
from open4ov.parallel.mesh import Mesh
from open4ov.recipe import Recipe, SftStage
from open4ov.recipe_blend import ONE_STAGE
from open4ov.sample import Sample
from open4ov.sft import preparation, pupil
from open4ov.sft.carry import Carry
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import Fit, fit
from open4ov.sft.planning import Stage
from open4ov.store import ImageStore, read_samples, write_samples

JOIN = "open4ov.sft.spread:join"


@dataclass(frozen=True)
class Task:
    """A stage's training, as all ranks are told of it; paths are of the run directory."""

    stage: Stage
    start: str
    """The model to begin with"""
    images: str
    scratch: str
    seed: int


class Training:
    """One rank's side of a stage's training."""

    def __init__(self, world: World, recipe: Recipe, task: Task, encoder: Encoder) -> None:
        self.section = recipe.sft.of(task.stage)
        self.options: SftStage = options_of(recipe, task.stage)
        self.encoder, self.scratch = encoder, Path(task.scratch)
        torch.manual_seed(task.seed)
        torch.set_flush_denormal(True)
        start = Path(task.start)
        model = pupil.skeleton(start, self.section, task.seed)
        preparation.parts(model, self.section, self.options)  # what is frozen must be so before it is spread
        mesh = Mesh.of(recipe.parallel, world.size, model.config).open(world.device)
        half = training.kind(self.section.precision, world.device) == "bf16"
        self.model = pretrained.opened(model, start, mesh, recipe.parallel, task.seed, half)
        self.carry: Carry | None = None

    def fit(self, samples: list[Sample], validation: list[Sample], total_tokens: int | None, **told: Any) -> Fit:
        """As `fit.fit`; all ranks call it. `told`: what rank 0 does with it."""
        result = fit(
            self.model,
            self.encoder,
            samples,
            self.section,
            self.options,
            self.scratch / "checkpoints",
            validation=validation,
            total_tokens=total_tokens,
            carry=self.carry if total_tokens else None,
            **told,
        )
        self.carry = result.carry
        return result


class Leader:
    """Rank 0's side, for a stage that has the crew."""

    def __init__(self, crew: Crew, recipe: Recipe, task: Task, encoder: Encoder) -> None:
        self.crew, self.recipe, self.task, self.encoder = crew, recipe, task, encoder
        self.calls = 0
        self.training: Training | None = None

    def fit(
        self,
        model: Qwen3VL,
        samples: list[Sample],
        validation: list[Sample],
        total_tokens: int | None,
        *,
        progress: Callable[[str, int, int], None],
        log: Callable[[dict[str, Any]], None],
        journal: Path,
        name: str,
    ) -> Fit:
        """Trains on all ranks, and puts the weights into `model`, which then is whole, on the CPU; meanwhile, and
        before the first call, it has none."""
        model.to("meta")
        folder = Path(self.task.scratch) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{self.calls}.parquet", folder / f"{self.calls}-validation.parquet"
        for path, own in zip(paths, (samples, validation), strict=True):
            write_samples(path, own, again=True)  # of several epochs
        arguments = {
            "task": asdict(self.task),
            "begins": self.training is None,
            "samples": str(paths[0]),
            "validation": str(paths[1]),
            "total_tokens": total_tokens,
        }
        self.crew.ask(JOIN, self.recipe, arguments)
        _alike(self.crew.world, self.task, self.training is None, *map(str, paths))
        if self.training is None:
            self.training = Training(self.crew.world, self.recipe, self.task, self.encoder)
        self.calls += 1
        result = self.training.fit(
            samples, validation, total_tokens, progress=progress, log=log, journal=journal, name=name
        )
        model.load_state_dict(self.training.model.full_state(), assign=True)
        return result


def join(
    world: World,
    recipe: Recipe,
    held: dict[str, Any],
    task: dict[str, Any],
    begins: bool,
    samples: str,
    validation: str,
    total_tokens: int | None,
) -> None:
    """What the other ranks do at a call of `Leader.fit`."""
    told = Task(**task)
    _alike(world, told, begins, samples, validation)
    if begins:
        held.clear()
        processor = Processor.from_pretrained(Path(told.start))
        own = Path(told.scratch) / f"features-{world.rank}"
        encoder = pupil.encoder(recipe.sft.of(told.stage), processor, ImageStore(Path(told.images)), own, world.device)
        held["sft"] = Training(world, recipe, told, encoder)
    training: Training = held["sft"]
    training.fit(read_samples(Path(samples)), read_samples(Path(validation)), total_tokens)
    training.model.full_state()
    training.encoder.thaw()


def _alike(world: World, task: Task, begins: bool, *samples: str) -> None:
    """Raises UserError, on all ranks, where they do not read the same samples, nor begin with the same model."""
    agree(world, files(*[task.start] * begins, *samples), what=samples[0])


def options_of(recipe: Recipe, stage: Stage) -> SftStage:
    """The stage's own options; the baselines of the ablation have one stage, `knowledge`."""
    section = recipe.sft.of(stage)
    return section.knowledge if section.schedule in ONE_STAGE else getattr(section, stage)
