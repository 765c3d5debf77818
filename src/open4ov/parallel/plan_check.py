"""`open4ov plan --check`: what the planner says a rank holds, against what the training code gives it.

The model is built on the meta device and spread by `Parallel.of`, as for a training, over a process group of the full
size that only pretends (torch's "fake" back end: one process is rank r of as many as one likes, and nothing is sent).
Compared are shape and bytes of every parameter, its gradient, and what AdamW keeps of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from open4ov import training
from open4ov.model import Qwen3VL
from open4ov.model.config import Config
from open4ov.recipe_parallel import ParallelSection

from .mesh import Mesh
from .plan_memory import States, states
from .plan_shapes import Held
from .plan_spread import Setup

Built = tuple[str, tuple[int, ...], tuple[int, ...]]
"""A parameter's name, its shape, its part's shape"""


@dataclass(frozen=True)
class Checked:
    """One rank: bytes as planned and as built, and in what they differ (empty: in nothing)."""

    rank: int
    planned: States
    built: States
    parameters: int
    differences: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return not self.differences and self.planned == self.built


def ranks_of(mesh: Mesh) -> list[int]:
    """The first, a middle one and the last of the world; those of each stage where there are few."""
    return sorted({0, mesh.world // 2, mesh.world - 1, *(stage * mesh.world // mesh.pp for stage in range(mesh.pp))})


def check(setup: Setup, ranks: Sequence[int] | None = None) -> list[Checked]:
    """Builds the part of each of these ranks and compares it. Must not be called where a process group is open."""
    found: list[Checked] = []
    for rank in ranks or ranks_of(setup.mesh):
        frozen = setup.job.frozen_vision
        planned = setup.held(rank)
        built, kept = build(setup.job.config, setup.options, setup.mesh, rank, frozen)
        differences = compared(planned, built)
        found.append(Checked(rank, states(planned, frozen), kept, len(built), differences))
    return found


def build(
    config: Config, options: ParallelSection, mesh: Mesh, rank: int, frozen_vision: bool
) -> tuple[list[Built], States]:
    """By the training's own code: of every parameter of that rank its name, its shape and its part's, and the bytes of
    all."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # the back end that only pretends has no other

    from .model import Parallel

    if dist.is_initialized():
        raise RuntimeError("a process group is open here already; check a plan in a process of its own")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=mesh.world)
    try:
        with torch.device("meta"):
            model = Qwen3VL(config)
        if frozen_vision:
            training.freeze_vision(model)
        spread = Parallel.of(model, mesh.open("cpu"), options)
        named = list(spread.named_parameters())
        optimizer = stepped(spread)
        weights = sum(own(p).nbytes for _, p in named)
        gradients = sum(own(p.grad).nbytes for _, p in named if p.grad is not None)
        kept = sum(own(value).nbytes for state in optimizer.state.values() for value in state.values())
        shapes = [(name, tuple(p.shape), tuple(own(p).shape)) for name, p in named]
        return shapes, States(weights, gradients, kept)
    finally:
        dist.destroy_process_group()


def stepped(model: nn.Module) -> training.Optimizer:
    """The training's optimizer with all its state, as the beginning of a first step makes it. The step itself is left
    out: there is nothing to compute on, and its fused kernel knows no meta tensors."""
    optimizer = training.adamw(model, 1e-5)  # pyright: ignore[reportArgumentType]
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    for part in optimizer.parts:
        for group in part.param_groups:
            group["fused"] = False
            part._init_group(group, *([] for _ in range(6)))  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


def own(value: Tensor) -> Tensor:
    """What this rank has of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def compared(planned: Sequence[Held], built: Sequence[Built]) -> list[str]:
    """In what the two differ, a line for each parameter. A name may be there twice: tied words at both ends."""
    lines: list[str] = []
    waiting: dict[str, list[Built]] = {}
    for one in built:
        waiting.setdefault(one[0], []).append(one)
    for one in planned:
        name, left = one.name, waiting.get(one.name)
        if not left:
            lines.append(f"{name}: planned, but not built")
            continue
        _, whole, part = left.pop(0)
        if whole != one.shape:
            lines.append(f"{name}: planned {list(one.shape)}, built {list(whole)}")
        elif part != one.local:
            lines.append(f"{name}: planned part {list(one.local)}, built {list(part)} of {list(whole)}")
    lines += [f"{name}: built, but not planned" for name, left in waiting.items() for _ in left]
    return lines
