"""What the planner says a step of FSDP has in memory and sends, against what PyTorch allocates and asks its collectives
for: one process is rank 0 of a group that only pretends, so that nothing else (gloo's own buffers) is counted."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate as running
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import world
from packs import config_of, processor_of, told
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter
from torch.testing._internal.distributed.fake_pg import FakeStore

from open4ov import training
from open4ov.model import Config, Pack, Processor, Qwen3VL, pack
from open4ov.parallel import plan_hardware, plan_memory, plan_traffic, recompute
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel
from open4ov.parallel.plan_job import Job, Work
from open4ov.parallel.plan_spread import Setup
from open4ov.parallel.recompute import Mode
from open4ov.recipe_parallel import ParallelSection
from open4ov.training_pass import Pass, accumulate

CPU = plan_hardware.find("h100").model_copy(update={"device": "cpu"})
PASSES = 2
APART = ("weights", "optimizer", "allocator", "process")
"""Parts that are there before, or that PyTorch does not allocate"""


@dataclass(frozen=True)
class Case:
    """kind: of the model (`packs.config_of`). tower: its width, trained; None: a small one, frozen, and no picture."""

    kind: str
    world: int
    sizes: dict[str, Any]
    recompute: Mode = "full"
    tower: int | None = None
    vocabulary: int | None = None


def shape(processor: Processor, case: Case) -> Config:
    """Six layers whose weights are far larger than what so few tokens keep."""
    config = config_of(processor, case.kind)
    text: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1536, "num_hidden_layers": 6, "head_dim": 32}
    text |= {"num_attention_heads": 8, "num_key_value_heads": 4, "mrope_section": (8, 4, 4)}
    text |= {"moe_intermediate_size": 512} if case.kind == "experts" else {}
    text |= {"vocab_size": case.vocabulary} if case.vocabulary else {}
    vision: dict[str, Any] = {"out_hidden_size": 256}
    vision |= {"hidden_size": case.tower, "intermediate_size": 4 * case.tower} if case.tower else {}
    return replace(config, text=replace(config.text, **text), vision=replace(config.vision, **vision))


@contextmanager
def pretending(world: int) -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Gets what a ring would send of each of FSDP's collectives, bytes."""
    found: list[float] = []
    for kind, whole in ((DefaultAllGather, "output_tensor"), (DefaultReduceScatter, "input_tensor")):

        def counted(self: Any, call: Any = kind.__call__, whole: str = whole, **named: Any) -> Any:
            found.append(named[whole].nbytes * (1 - 1 / named["group"].size()))
            return call(self, **named)

        monkeypatch.setattr(kind, "__call__", counted)
    return found


def planned(config: Config, case: Case, batch: Pack) -> Setup:
    options = ParallelSection(**case.sizes)
    mesh = Mesh.of(options, case.world, config)
    grids = tuple((t, h, w) for t, h, w in batch.grids.tolist())
    frozen = case.tower is None
    job = Job(
        "six layers", config, Work(tuple(batch.lengths.tolist()), grids, len(batch.predicted)),
        packs=PASSES * mesh.size("dp"), frozen_vision=frozen, recompute=case.recompute,
        recompute_vision="none" if frozen else case.recompute,
    )  # fmt: skip
    return Setup(job, options, mesh, CPU)


def most(model: Qwen3VL | Parallel, batch: Pack) -> int:
    """Bytes that are allocated at once in a step's passes, beyond those that were there before."""
    precision = partial(training.precision, "bf16", "cpu")
    own = [Pass.of(batch, None, 1.0 / PASSES)] * PASSES
    accumulate(model, own, precision)  # what is made once and for all
    for parameter in model.parameters():
        parameter.grad = None
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        accumulate(model, own, precision)
    events: Any = profiler.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    return max(running(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"))


HALF = [
    Case("dense", 8, {}),
    Case("untied", 8, {}, "none"),
    Case("experts", 8, {}, "op"),
    Case("experts", 8, {"tp": 2}),
    Case("dense", 4, {"tp": 2}, "none"),
    Case("dense", 2, {"tp": 2}),  # FSDP of one rank
    Case("dense", 8, {"cp": 2}),
    Case("dense", 8, {"dp_replicate": 4, "dp_shard": 2}, "none"),
    Case("untied", 8, {}, vocabulary=20_000),
    Case("dense", 8, {}, tower=256),
    Case("dense", 8, {}, "none", tower=256),
]
FULL = [
    Case("dense", 8, {"gather": "fp32"}, "none"),
    Case("dense", 8, {"gather": "fp32"}),
    Case("experts", 4, {"tp": 2, "gather": "fp32"}, "none"),
]


def made(directory: Path, case: Case) -> tuple[Qwen3VL, Pack, Setup]:
    processor = processor_of(directory)
    config = shape(processor, case)
    documents = told(processor)
    batch = pack(documents if case.tower else documents[4:])
    model = Qwen3VL(config, seed=3)
    if case.tower is None:
        training.freeze_vision(model)
    recompute.apply(model, case.recompute, "none" if case.tower is None else case.recompute)
    return model, batch, planned(config, case, batch)


def in_memory(setup: Setup, rank: int = 0) -> tuple[int, dict[str, int]]:
    """Bytes of the passes as planned, and of what."""
    parts = {name: size for name, size in plan_memory.of_rank(setup, rank).parts.items() if name not in APART}
    return sum(parts.values()), parts


@pytest.mark.parametrize("case", [*HALF, *FULL], ids=str)
def test_a_step_has_and_sends_what_is_planned(tiny_dir: Path, case: Case, sent: list[float]) -> None:
    """What parts of the plan have at once need not quite be there at once: a little more is planned. Bytes sent are
    those of the plan, up to what rows are filled up by."""
    model, batch, setup = made(tiny_dir, case)
    with pretending(case.world):
        found = most(Parallel.of(model, setup.mesh.open("cpu"), setup.options, half=True), batch)
    total, parts = in_memory(setup)
    assert 0.98 * found <= total <= 1.1 * found, (found, parts)
    traffic = sum(one.bytes for one in plan_traffic.of_step(setup) if one.axis in ("fsdp", "efsdp"))
    assert sum(sent) / 2 == pytest.approx(traffic, rel=0.01)  # of two steps


def piped(directory: Path, case: Case) -> int:
    model, batch, setup = made(directory, case)
    return most(Parallel.of(model, setup.mesh.open("cpu"), setup.options, half=True), batch)


@pytest.mark.distributed
@pytest.mark.parametrize("gather", ["auto", "fp32"])
def test_a_pipeline_has_what_is_planned(tiny_dir: Path, gather: str) -> None:
    """Two processes, whose FSDP is of one rank and sends nothing."""
    case = Case("dense", 2, {"pp": 2, "gather": gather})
    _, _, setup = made(tiny_dir, case)
    for rank, found in enumerate(world.run(piped, 2, tiny_dir, case)):
        total, parts = in_memory(setup, rank)
        assert 0.98 * found <= total <= 1.1 * found, (rank, found, parts)
