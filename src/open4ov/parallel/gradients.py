"""The norm of gradients that lie on many ranks, and clipping by it."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def norm(parameters: Iterable[nn.Parameter], counted: int = 1) -> Tensor:
    """The norm of the gradient of all parameters on all ranks of the world, a scalar that every rank gets.

    What several ranks hold alike counts once: on an axis where a gradient is replicated, each rank adds its share of
    the square. Dense parameters and experts lie on different meshes, and stages on different ranks; their squares add
    up all the same. `counted`: ranks that hold a parameter that is no DTensor.
    """
    parts: dict[int, list[Tensor]] = {}
    device = torch.device("cpu")
    for parameter in parameters:
        gradient, copies = parameter.grad, counted
        device = parameter.device
        if isinstance(gradient, DTensor):
            mesh = gradient.device_mesh
            copies = prod(mesh.size(i) for i, cut in enumerate(gradient.placements) if cut.is_replicate())
            gradient = gradient.to_local()
        if gradient is not None and gradient.numel():
            parts.setdefault(copies, []).append(gradient)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for copies, gradients in parts.items():
        total += torch.nn.utils.get_total_norm(gradients).double().square() / copies
    if dist.is_initialized():
        dist.all_reduce(total)
    return total.sqrt()


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], norm: float, most: float) -> None:
    """Scales the gradients down to the norm `most` where theirs is larger."""
    scale = most / (norm + 1e-6)
    if scale < 1:
        for parameter in parameters:
            if parameter.grad is not None:
                gradient = parameter.grad
                (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(scale)
