"""Collectives that gradients pass through, each with its exact adjoint. A group of None is a single process.

What a rank computes after a collective is of one of two kinds. *Its own*: each rank has other tokens, heads or words,
and the gradients that come back are shares, which the adjoint adds up. *The same*: every rank computes the same value
from the same input, so that each one's gradient is already the whole.

All tensors of a group must have the same shape.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def all_gather(x: Tensor, group: ProcessGroup | None, dim: int = 0) -> Tensor:
    """The ranks' tensors end to end along `dim`, for each rank to compute its own: backward is reduce_scatter."""
    return x if group is None else _Gather.apply(x, group, dim)  # pyright: ignore[reportReturnType]


def all_gather_same(x: Tensor, group: ProcessGroup | None, dim: int = 0) -> Tensor:
    """As `all_gather`, for all ranks to compute the same: backward takes the rank's own part."""
    return x if group is None else _GatherSame.apply(x, group, dim)  # pyright: ignore[reportReturnType]


def reduce_scatter(x: Tensor, group: ProcessGroup | None, dim: int = 0) -> Tensor:
    """The sum of the ranks' tensors, of which each keeps its part along `dim`: backward is all_gather. The size of
    `dim` must be a multiple of the group's."""
    return x if group is None else _Scatter.apply(x, group, dim)  # pyright: ignore[reportReturnType]


def all_reduce(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum of the ranks' tensors, for all of them to compute the same: backward hands the gradient on as it is."""
    return x if group is None else _Reduce.apply(x, group)  # pyright: ignore[reportReturnType]


def shared(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """x, which all ranks have, for each to compute its own: backward is the sum over the ranks."""
    return x if group is None else _Shared.apply(x, group)  # pyright: ignore[reportReturnType]


def scatter(x: Tensor, group: ProcessGroup | None, dim: int = 0) -> Tensor:
    """Of x, which all ranks have computed alike, each one's part along `dim`: backward is all_gather. The size of `dim`
    must be a multiple of the group's."""
    return x if group is None else _Part.apply(x, group, dim)  # pyright: ignore[reportReturnType]


def all_to_all(x: Tensor, group: ProcessGroup | None, cut: int, join: int) -> Tensor:
    """Cuts x along `cut` into a part for each rank and joins what comes from them along `join`: backward is the same
    the other way round. The size of `cut` must be a multiple of the group's."""
    return x if group is None else _Exchange.apply(x, group, cut, join)  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return gathered(x, group, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _reduced(gradients[0], ctx.group, ctx.dim), None, None


class _GatherSame(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return gathered(x, group, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _part(gradients[0], ctx.group, ctx.dim), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _reduced(x, group, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gathered(gradients[0], ctx.group, ctx.dim), None, None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0], ctx.group), None


class _Part(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _part(x, group, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gathered(gradients[0], ctx.group, ctx.dim), None, None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, cut: int, join: int) -> Tensor:
        ctx.group, ctx.cut, ctx.join = group, cut, join
        return _exchanged(x, group, cut, join)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchanged(gradients[0], ctx.group, ctx.join, ctx.cut), None, None, None


def gathered(x: Tensor, group: ProcessGroup, dim: int = 0) -> Tensor:
    """As `all_gather`, without a gradient."""
    x, size = x.contiguous(), group.size()
    out = x.new_empty(size * len(x), *x.shape[1:]) if x.dim() else x.new_empty(size)
    dist.all_gather_single(out, x, group=group)
    return out if dim == 0 else torch.cat(out.chunk(size), dim)


def _reduced(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    size = group.size()
    x = x.contiguous() if dim == 0 else torch.cat(x.chunk(size, dim))
    out = x.new_empty(len(x) // size, *x.shape[1:])
    dist.reduce_scatter_single(out, x, group=group)
    return out


def _summed(x: Tensor, group: ProcessGroup) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


def _part(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    return x.chunk(group.size(), dim)[group.rank()].contiguous()


def _exchanged(x: Tensor, group: ProcessGroup, cut: int, join: int) -> Tensor:
    parts = torch.stack(x.chunk(group.size(), cut))
    out = torch.empty_like(parts)
    dist.all_to_all_single(out, parts, group=group)
    return torch.cat(out.unbind(), join)
