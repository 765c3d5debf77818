"""Short trainings of the tiny model on several processes, for `test_spread.py`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from looped import Bench, coloured
from torch import Tensor
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]

from open4ov.errors import UserError
from open4ov.parallel.crew import follow, leading
from open4ov.parallel.launch import World
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel, whole
from open4ov.recipe import Recipe, SftSection, SftStage
from open4ov.recipe_parallel import ParallelSection
from open4ov.sft import preparation, pupil, spread
from open4ov.sft.fit import Fit
from open4ov.stages import spread as stages
from open4ov.store import ImageStore

Curve = list[dict[str, Any]]


def trained(
    tiny: Path,
    store: Path,
    sizes: dict[str, int],
    options: dict[str, Any],
    stage: dict[str, Any],
    checkpoints: Path | None = None,
    stop_after: int | None = None,
) -> tuple[Curve, dict[str, Any], dict[str, Tensor]]:
    """Curve, summary and weights, on as many processes as there are."""
    bench = Bench(tiny, ImageStore(store))
    samples, held_out = coloured(bench.store, 12), coloured(bench.store, 3, 20)
    model: Any = bench.model(options.get("lora_rank", 0))
    section = SftSection.model_validate({"pack_tokens": 128, "precision": "fp32", **options})
    chosen = SftStage.model_validate({"tokens": 1, "learning_rate": 3e-3, **stage})
    if dist.is_initialized():
        preparation.parts(model, section, chosen)
        parallel = ParallelSection.model_validate(sizes)
        model = Parallel.of(model, Mesh.of(parallel, dist.get_world_size(), model.config).open("cpu"), parallel)
    result: Fit
    _, result = bench.train(
        samples,
        options,
        model,
        stage,
        checkpoints=checkpoints,
        stop_after=stop_after,
        validation=held_out,
    )
    weights = {name: whole(p.detach()).clone() for name, p in model.named_parameters()}
    torch.set_flush_denormal(False)
    return result.curve, result.summary, weights


def paced(tiny: Path, store: Path, peak: float) -> tuple[dict[str, Any], float]:
    """The figures of a first step on two processes, whose devices reach so many TFLOPS; and its operations."""
    bench, told = Bench(tiny, ImageStore(store)), Curve()
    model: Any = bench.model()
    parallel = ParallelSection(dp_shard=2)
    model = Parallel.of(model, Mesh.of(parallel, 2, model.config).open("cpu"), parallel)
    options = {"pack_tokens": 64, "accumulate": 2, "peak_tflops": peak}
    _, result = bench.train(coloured(bench.store, 6), options, model, stop_after=1, log=told.append)
    torch.set_flush_denormal(False)
    return told[0], result.summary["model_flops"]


def called(folder: Path) -> list[str]:
    """What this rank is told at each kind of training whose first model is another one on every rank."""
    rank = dist.get_rank()
    store = dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
    world = World(rank, dist.get_world_size(), rank, torch.device("cpu"), store)
    recipe, start, samples = Recipe(name="x"), str(folder / str(rank) / "model"), str(folder / "samples.parquet")
    task = asdict(spread.Task("knowledge", start, str(folder), str(folder), 0))
    common = {"start": start, "images": str(folder), "scratch": str(folder), "seed": 0}
    pool = {"pool": str(folder), "names": str(folder / "tasks.json"), "general": None}
    calls = (
        lambda: spread.join(world, recipe, {}, task, True, samples, samples, None),
        lambda: stages.join_online(world, recipe, {}, **common, **pool),
        lambda: stages.join_preferences(world, recipe, {}, **common, pairs=str(folder / "pairs.parquet")),
    )
    said: list[str] = []
    for call in calls:
        try:
            call()
        except UserError as error:
            said.append(str(error))
    return said


def led(tiny: Path, store: Path, folder: Path, lora_rank: int) -> list[tuple[dict[str, Tensor], set[str]]]:
    """Of rank 0, which leads trainings in two parts: what the model has after them, and which parameters are trained.
    First it has the model whole before, then not."""
    rank, sft = dist.get_rank(), {"precision": "fp32", "pack_tokens": 64, "lora_rank": lora_rank}
    recipe = Recipe.model_validate({"name": "x", "parallel": {"dp_shard": 2}, "sft": sft})
    whole_store = dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
    here = World(rank, 2, rank, torch.device("cpu"), PrefixStore("led", whole_store))
    if rank:
        held: dict[str, Any] = {}
        follow(here, lambda work: spread.join(here, recipe, held, **work["arguments"]))
        return []
    bench, found = Bench(tiny, ImageStore(store)), list[tuple[dict[str, Tensor], set[str]]]()
    with leading(here) as crew:
        for made in (pupil.load, pupil.skeleton):
            task = spread.Task("knowledge", str(tiny), str(store), str(folder / made.__name__), 3)
            model = made(tiny, recipe.sft, 3)
            leader = spread.Leader(crew, recipe, task, bench.encoder())
            told = {"progress": lambda *_: None, "log": lambda _: None, "journal": folder / "journal", "name": "x"}
            for first in (0, 6):
                leader.fit(model, coloured(bench.store, 6, first), [], 2000, **told)
                assert model.device.type == "cpu"
            own = dict(model.named_parameters())
            found.append(({n: p.detach().clone() for n, p in own.items()}, {n for n in own if own[n].requires_grad}))
    return found


def several(tiny: Path, store: Path, folder: Path, options: dict[str, Any], stage: dict[str, Any]) -> list[Any]:
    """Of two processes: FSDP, tensor and context parallel; FSDP once more, stopped on the way and taken up again."""
    found = [trained(tiny, store, sizes, options, stage) for sizes in ({"dp_shard": 2}, {"tp": 2}, {"cp": 2})]
    sizes = {"dp_shard": 2}
    trained(tiny, store, sizes, options, stage, folder, stop_after=3)
    dist.barrier()
    return [*found, trained(tiny, store, sizes, options, stage, folder)]
