"""How tokens and experts meet where the experts of a layer lie on several ranks: dispatchers, by name.

`all_to_all`: rows travel. The ranks tell one another how many rows each has for each expert, send the rows, and
get what the experts made of them. Rows arrive rank after rank; they are laid expert after expert, so that the
experts' products are the same two grouped ones as on one rank. `local`: nothing travels but the experts themselves:
each rank gathers all of them for its own rows. The reference, and the better way for few experts and many tokens.
`deepep`: see `deepep.py`.

Shapes: A assignments (rows) of this rank's tokens, D hidden, E experts, G ranks of the group, R rows that arrive.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional  # recomputation can keep their results by name
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate

from .collectives import gathered
from .expert_layer import ParallelMoE


class Local(ParallelMoE):
    """All experts on every rank, gathered for each pass; gradients are added up and go back to where they belong."""

    def weights(self) -> tuple[Tensor, Tensor]:
        if self.ep is None:
            return super().weights()
        gate_up, down = super(ParallelMoE, self).weights()
        return _gathered(gate_up), _gathered(down)


def _gathered(value: Tensor) -> Tensor:
    """All experts; the gradient is a share of a sum, of which each rank gets its experts' part."""
    assert isinstance(value, DTensor), "experts are cut when the layer is made"
    return value.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])


class AllToAll(ParallelMoE):
    """Rows travel to the ranks of their experts and back."""

    def products(self, x: Tensor, counts: Tensor) -> Tensor:
        if self.ep is None:
            return super().products(x, counts)
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))  # what the products take: fewer bytes on the way
        # every rank gets all counts: as many messages as if each got its own, and all know how even the load is
        counted = gathered(counts, self.ep).view(self.ep.size(), self.ep.size(), -1)
        between: list[list[int]] = counted.sum(2).tolist()
        me = self.ep.rank()
        there, back = between[me], [row[me] for row in between]
        self.load = [sum(column) for column in zip(*between, strict=True)]
        arriving = counted[:, me]
        rows = exchange(x, there, back, self.ep)
        order = by_expert(arriving, sum(back))
        out = super().products(permuted(rows, order), arriving.sum(0))
        return exchange(permuted(out, inverse(order)), back, there, self.ep)


def by_expert(arriving: Tensor, rows: int) -> Tensor:
    """Long [R]: the rows in the order of their experts, within an expert in the order of ranks. They lie rank after
    rank, of each expert after expert: `arriving` [G, experts of this rank] says how many."""
    ranks, experts = arriving.shape
    expert = torch.arange(experts, device=arriving.device).repeat(ranks)
    return expert.repeat_interleave(arriving.flatten(), output_size=rows).argsort(stable=True)


def inverse(order: Tensor) -> Tensor:
    """The permutation that undoes it."""
    return torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))


class _Permuted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        return gradients[0].index_select(0, inverse(order)), None


def permuted(x: Tensor, order: Tensor) -> Tensor:
    """x[order] for a permutation [R] of the rows of x [R, D]. Its gradient is looked up, too, not added up."""
    return cast(Tensor, _Permuted.apply(x, order))


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: list[int], back: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.splits = there, back, group
        return functional.wait_tensor(functional.all_to_all_single(x.contiguous(), back, there, group))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        there, back, group = ctx.splits
        gradient = gradients[0].contiguous()
        return functional.wait_tensor(functional.all_to_all_single(gradient, there, back, group)), None, None, None


def exchange(x: Tensor, there: list[int], back: list[int], group: dist.ProcessGroup) -> Tensor:
    """x [A, D], of which the first there[0] rows go to the first rank and so on -> [R, D], the first back[0] rows from
    the first rank and so on. Any number may be 0. The gradient takes the same ways back: it is exact.

    All ranks must call it, and backward through it, in the same order; so x counts as something that has a gradient on
    every rank, whether what it was made from has one on this rank or not.
    """
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()
    return cast(Tensor, _Exchange.apply(x, there, back, group))
