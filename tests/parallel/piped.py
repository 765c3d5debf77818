"""Trainings over pipelines, composed with every other axis, against one process: what `parity.py` is for one stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import world
from packs import processor_of
from parity import Outcome, assert_same, passes_of, trained
from pipelines import deep_config
from torch import Tensor

from open4ov.model import Processor, Qwen3VL
from open4ov.parallel import recompute
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.model import whole
from open4ov.parallel.piped import Piped
from open4ov.recipe_parallel import ParallelSection
from open4ov.training import freeze_vision


@dataclass(frozen=True)
class Case:
    """kind, what, frozen: as of `parity.Case`. borders: empty: cut by cost. passes: None: all that `what` has. calls:
    of `accumulate` for each step of the optimizer."""

    sizes: dict[str, Any]
    kind: str = "dense"
    what: str = "plain"
    frozen: bool = False
    borders: tuple[int, ...] = ()
    layers: int = 4
    passes: int | None = None
    recompute: str = "none"
    calls: int = 1

    def __str__(self) -> str:
        axes = "-".join(f"{name}{size}" for name, size in self.sizes.items() if isinstance(size, int))
        return f"{self.sizes['schedule']}-{axes}-{self.kind}-{self.what}{'-frozen' * self.frozen}"

    @property
    def key(self) -> tuple[Any, ...]:
        """What one process computes."""
        return self.kind, self.what, self.frozen, self.layers, self.passes

    def model(self, processor: Processor) -> Qwen3VL:
        model = Qwen3VL(deep_config(processor, self.kind, self.layers), seed=3)
        with torch.no_grad():  # as in `parity.prepared`
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
        if self.frozen:
            freeze_vision(model)
        return model


@dataclass
class Ranks:
    """One case's outcomes of all ranks, put together."""

    outcomes: list[Outcome] = field(default_factory=list)

    def together(self, rank: int) -> Outcome:
        """What that rank saw of the loss, with the gradients and weights of all stages."""
        gradients: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        for one in self.outcomes:
            for name, value in one.weights.items():
                if name in weights:
                    assert torch.equal(weights[name], value), f"copies of {name} differ"
                weights[name] = value
            gradients |= one.gradients
        own = self.outcomes[rank]
        return Outcome(own.losses, gradients, weights, own.norms, own.scores)


def expected(directory: Path, case: Case) -> Outcome:
    processor = processor_of(directory)
    model = case.model(processor)
    return trained(model, passes_of(processor, model, case.what)[: case.passes], lambda x: x)


def on_meshes(directory: Path, cases: list[Case]) -> list[Outcome]:
    return [on_mesh(directory, case) for case in cases]


def on_mesh(directory: Path, case: Case) -> Outcome:
    processor = processor_of(directory)
    plain = case.model(processor)
    recompute.apply(plain, case.recompute)  # pyright: ignore[reportArgumentType]
    options = ParallelSection(**case.sizes, borders=case.borders)
    mesh = Mesh.of(options, dist.get_world_size(), plain.config).open("cpu")
    passes = passes_of(processor, plain, case.what)[: case.passes]
    share = len(passes) // mesh.size("dp")
    own = passes[mesh.rank("dp") * share : (mesh.rank("dp") + 1) * share]
    model = Piped.laid(plain, mesh, options)
    result = trained(model, own, whole, case.calls)
    if mesh.rank("dp"):  # the passes scored differ
        result.scores = torch.zeros(0)
    _close(mesh)
    return result


def _close(mesh: Mesh) -> None:
    """Gloo has three threads for each group, which wake up a hundred times a second."""
    dist.barrier()
    for view in mesh.views:
        for group in view.get_all_groups():
            if group is not dist.group.WORLD:
                dist.destroy_process_group(group)


def compare(directory: Path, processes: int, cases: list[Case]) -> None:
    """Every case on so many processes against one."""
    results = world.run(on_meshes, processes, directory, cases, timeout=1800)
    wanted: dict[tuple[Any, ...], Outcome] = {}
    faults = []
    for number, case in enumerate(cases):
        if case.key not in wanted:
            wanted[case.key] = expected(directory, case)
        ranks = Ranks([outcomes[number] for outcomes in results])
        for rank in range(processes):
            try:
                assert_same(ranks.together(rank), wanted[case.key])
            except AssertionError as error:
                faults.append(f"{case}, rank {rank}: {error}")
    assert not faults, "\n".join(faults)
