"""A training whose experts lie on several ranks against one process: loss, every gradient, weights after two steps.

What one process chose is forced on the mesh, so that a tie between two experts cannot look like a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import world
from packs import processor_of
from parity import RATE, Outcome, assert_same, passes_of
from tiny import moe_config
from torch import Tensor

from open4ov import training
from open4ov.model import Qwen3VL
from open4ov.parallel import recompute, replay
from open4ov.parallel.layout import Layout
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import Parallel, whole
from open4ov.recipe_parallel import ParallelSection
from open4ov.training_pass import Pass, accumulate, summed

Chosen = list[list[dict[str, Tensor]]]
"""Of each step, of each of its passes: layer -> experts chosen, Long [T, k]"""


@dataclass(frozen=True)
class Case:
    """experts and chosen: of the model; recomputed: how its layers are; what: passes over plain packs or such with a
    shared beginning."""

    sizes: dict[str, int | str]
    experts: int = 4
    chosen: int = 2
    what: str = "plain"
    recomputed: recompute.Mode = "none"


@dataclass
class Found:
    outcome: Outcome
    figures: dict[str, float]
    cuts: dict[str, str] = field(default_factory=dict)


def made(directory: Path, case: Case) -> tuple[Qwen3VL, list[Pass]]:
    processor = processor_of(directory)
    config = moe_config(
        processor, num_experts=case.experts, num_experts_per_tok=case.chosen, router_aux_loss_coef=0.05
    )  # 48 wide, experts of 40
    model = Qwen3VL(config, seed=3)
    with torch.no_grad():  # see parity.prepared
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return model, passes_of(processor, None, case.what)


def trained(
    model: Qwen3VL | Parallel, passes: list[Pass], given: Chosen | None = None, own: Sequence[int] = ()
) -> tuple[Outcome, Chosen]:
    """Two steps. given: what is forced, of which this rank has the passes `own`."""
    optimizer = training.adamw(model, RATE, 0.01)
    for part in optimizer.parts:
        for group in part.param_groups:
            group["eps"] = 1e-6
    losses, norms, gradients, chosen = [], [], {}, []
    for step in range(2):
        with _choice(model, given, step, own) as routes:
            losses += summed(model, [sum(float(value) for value in accumulate(model, passes))])
        if given is None:
            chosen.append([{name: route[i] for name, route in routes.items()} for i in range(len(passes))])
        if step == 0:
            gradients = {n: whole(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None}
        norms.append(training.step(model, optimizer, RATE, 1.0))
    weights = {name: whole(p.detach()).clone() for name, p in model.named_parameters()}
    return Outcome(losses, gradients, weights, norms, torch.zeros(0)), chosen


def _choice(
    model: Qwen3VL | Parallel, given: Chosen | None, step: int, own: Sequence[int]
) -> AbstractContextManager[dict[str, list[Tensor]]]:
    if given is None:
        return replay.recorded(model)
    routes: dict[str, list[Tensor]] = {}
    for number in own:
        for name, chosen in given[step][number].items():
            routes.setdefault(name, []).append(chosen)
    return replay.replayed(model, routes)  # pyright: ignore[reportReturnType]


def on_mesh(directory: Path, case: Case, given: Chosen) -> Found:
    plain, passes = made(directory, case)
    options = ParallelSection(**case.sizes)  # pyright: ignore[reportArgumentType]
    mesh = Mesh.of(options, dist.get_world_size(), plain.config).open("cpu")
    share = len(passes) // mesh.size("dp")
    own = range(mesh.rank("dp") * share, (mesh.rank("dp") + 1) * share)
    cut = []
    for step in given:
        here = []
        for number, one in enumerate(step):
            layout = Layout.of(passes[number].pack, plain.config, mesh)
            here.append({name: chosen[layout.start : layout.stop] for name, chosen in one.items()})
        cut.append(here)
    recompute.apply(plain, case.recomputed)
    model = Parallel.of(plain, mesh, options)
    cuts = {n: str(p.placements) for n, p in model.named_parameters() if n.endswith(("mlp.gate_up", "mlp.down"))}  # pyright: ignore[reportAttributeAccessIssue]
    outcome, _ = trained(model, [passes[i] for i in own], cut, own)
    return Found(outcome, model.figures(), cuts)


def on_meshes(directory: Path, cases: list[Case], given: list[Chosen]) -> list[Found]:
    return [on_mesh(directory, case, chosen) for case, chosen in zip(cases, given, strict=True)]


def compare(directory: Path, processes: int, cases: list[Case]) -> list[list[Found]]:
    """Each case on so many processes against one -> of each rank what it found."""
    alone = [replace(case, sizes={}, recomputed="none") for case in cases]
    known: list[tuple[Outcome, Chosen]] = []
    for case in alone:
        at = alone.index(case)
        known.append(known[at] if at < len(known) else trained(*made(directory, case)))
    results = world.run(on_meshes, processes, directory, cases, [chosen for _, chosen in known], timeout=900)
    faults = []
    for number, case in enumerate(cases):
        for rank, found in enumerate(results):
            try:
                assert_same(found[number].outcome, known[number][0])
            except AssertionError as error:
                faults.append(f"{case}, rank {rank}: {error}")
    assert not faults, "\n".join(faults)
    return results


@pytest.mark.slow
def test_two_processes(tiny_dir: Path) -> None:
    cases = [
        Case({"dp_shard": 2, "ep": 2}),
        Case({"tp": 2, "ep": 2}, what="shared"),
        Case({"cp": 2, "ep": 2}, recomputed="op"),
        Case({"dp_shard": 2, "ep": 2, "dispatch": "local"}, experts=6, chosen=3),
    ]
    ranks = compare(tiny_dir, 2, cases)
    for found in (ranks[0][0], ranks[1][0]):
        assert found.figures["expert_imbalance"] >= 1


@pytest.mark.slow
def test_four_processes(tiny_dir: Path) -> None:
    cases = [
        Case({"dp_shard": 4, "ep": 4}),
        Case({"tp": 4, "ep": 4}, what="shared"),
        Case({"cp": 2, "tp": 2, "ep": 4}, what="shared"),
        Case({"dp_shard": 2, "tp": 2, "ep": 4}, recomputed="full"),
        Case({"dp_shard": 4, "ep": 2}, experts=6, chosen=3),
        Case({"dp_shard": 2, "cp": 2, "ep": 2}, experts=2, chosen=1),
        Case({"dp_replicate": 2, "tp": 2, "ep": 2}),
        Case({"dp_shard": 2, "tp": 2}, experts=2, chosen=1),
    ]
    found = compare(tiny_dir, 4, cases)[0]
    cuts = [set(one.cuts.values()) for one in found]
    assert all("Shard(dim=0)" in cut for cut in cuts[0])
    assert all("Shard(dim=1)" in cut for cut in (*cuts[5], *cuts[7])), "fewer experts than ranks: each is cut"
