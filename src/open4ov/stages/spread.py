"""The stages `rl` and `dpo` on several processes: the first one has the stage, and calls the others to its training.

Every process reads its part of the model that the stage begins with; what is trained on it reads from files of the run
directory. Making pairs, filtering tasks and probing are the first process's work alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from open4ov import training
from open4ov.model import Processor, Qwen3VL
from open4ov.parallel import pretrained
from open4ov.parallel.agree import agree, files
from open4ov.parallel.launch import World
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel
from open4ov.recipe import Recipe
from open4ov.rl import replay
from open4ov.rl.failed import Failures
from open4ov.rl.preference import training as offline
from open4ov.rl.tasks import Task, read
from open4ov.rl.trainer import Fit, fit
from open4ov.sample import Sample
from open4ov.store import ImageStore, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

THRESHOLDS = "encoder_thresholds"
"""The folder of a run that keeps the thresholds which the labelled pairs have set"""


def online(
    run: StageRun, start: Path, processor: Processor, tasks: Sequence[Task], failures: Failures
) -> tuple[Fit, Qwen3VL]:
    """Online RL on these tasks of the pool -> what it left, and the trained model, whole, on the CPU."""
    assert run.crew is not None
    section = run.recipe.rl
    names = run.scratch / "tasks.json"
    write_json(names, [task.sample.id for task in tasks])
    general = str(run.inputs["data"] / "general.parquet") if section.steps and section.replay.share else None
    arguments = {
        "start": str(start),
        "pool": str(run.inputs["rl_pool"]),
        "names": str(names),
        "images": str(run.images.root),
        "general": general,
        "scratch": str(run.scratch),
        "seed": run.seed,
    }
    run.crew.ask("open4ov.stages.spread:join_online", run.recipe, arguments)
    result, model = _online(
        run.crew.world,
        run.recipe,
        **arguments,
        processor=processor,
        tasks=tasks,
        told={
            "progress": run.progress,
            "log": run.log,
            "failures": failures,
            "folder": run.scratch / "journal",
            "name": f"{run.recipe.name} {run.stage}",
        },
    )
    assert model is not None, "the first process gets the whole model"
    return result, model


def join_online(world: World, recipe: Recipe, held: dict[str, Any], **arguments: Any) -> None:
    """What the other processes do at a call of `online`."""
    held.clear()
    _online(world, recipe, **arguments, processor=None, tasks=None, told={})


def _online(
    world: World,
    recipe: Recipe,
    *,
    start: str,
    pool: str,
    names: str,
    images: str,
    general: str | None,
    scratch: str,
    seed: int,
    processor: Processor | None,
    tasks: Sequence[Task] | None,
    told: dict[str, Any],
) -> tuple[Fit, Qwen3VL | None]:
    agree(world, files(start, pool, names, *([general] if general else [])), what=names)
    store, section = ImageStore(Path(images)), recipe.rl
    if tasks is None:
        known = {task.sample.id: task for task in read(Path(pool), store)}
        tasks = [known[name] for name in json.loads(Path(names).read_text())]
    model = _parted(world, recipe, Path(start), section.freeze_vision, section.precision, seed)
    result = fit(
        model,
        processor or Processor.from_pretrained(Path(start)),
        tasks,
        section,
        seed,
        images=store,
        replayed=replay.usable(read_samples(Path(general))) if general else (),
        checkpoints=Path(scratch) / "checkpoints",
        thresholds=store.root.parent / THRESHOLDS,
        **told,
    )
    return result, model.to_plain()


def preferences(
    run: StageRun, start: Path, processor: Processor, pairs: Sequence[Sample]
) -> tuple[offline.Fit, Qwen3VL]:
    """DPO on the pairs -> what it left, and the trained model, whole."""
    assert run.crew is not None
    given = run.scratch / "pairs.parquet"
    write_samples(given, list(pairs))
    arguments = {
        "start": str(start),
        "pairs": str(given),
        "images": str(run.images.root),
        "scratch": str(run.scratch),
        "seed": run.seed,
    }
    run.crew.ask("open4ov.stages.spread:join_preferences", run.recipe, arguments)
    result, model = _preferences(
        run.crew.world,
        run.recipe,
        **arguments,
        processor=processor,
        told={
            "progress": run.progress,
            "log": run.log,
            "note": run.note,
            "folder": run.scratch / "journal",
            "name": f"{run.recipe.name} {run.stage}",
        },
    )
    assert model is not None, "the first process gets the whole model"
    return result, model


def join_preferences(world: World, recipe: Recipe, held: dict[str, Any], **arguments: Any) -> None:
    """What the other processes do at a call of `preferences`."""
    held.clear()
    _preferences(world, recipe, **arguments, processor=None, told={})


def _preferences(
    world: World,
    recipe: Recipe,
    *,
    start: str,
    pairs: str,
    images: str,
    scratch: str,
    seed: int,
    processor: Processor | None,
    told: dict[str, Any],
) -> tuple[offline.Fit, Qwen3VL | None]:
    agree(world, files(start, pairs), what=pairs)
    model = _parted(world, recipe, Path(start), True, recipe.dpo.precision, seed)
    result = offline.train(
        model,
        processor or Processor.from_pretrained(Path(start)),
        read_samples(Path(pairs)),
        ImageStore(Path(images)).get,
        recipe.dpo,
        seed,
        scratch=Path(scratch),
        **told,
    )
    return result, model.to_plain()


def _parted(world: World, recipe: Recipe, start: Path, frozen: bool, precision: str, seed: int) -> Parallel:
    """This process's part of a model; nobody reads the whole. What is frozen must be so before it is parted."""
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    model = pretrained.skeleton(start)
    if frozen:
        training.freeze_vision(model)
    mesh = Mesh.of(recipe.parallel, world.size, model.config).open(world.device)
    half = training.kind(precision, world.device) == "bf16"
    return pretrained.opened(model, start, mesh, recipe.parallel, half=half)
