"""Tied words over a pipeline: the first stage embeds by a matrix, the last one has the same as its head.

Each has a copy and computes a part of the gradient. The parts are added up on both before the optimizer's step, in the
same order, so that the copies stay equal bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .stage import Stage


class Twins:
    """The copies that this rank holds: one, both (a V ends where it begins), or none. first, last: which ranks of the
    group hold the first and the last stage."""

    def __init__(self, stages: Sequence[Stage], group: dist.ProcessGroup, first: int, last: int) -> None:
        found = [(stage, stage.get_parameter(stage.twin)) for stage in stages if stage.twin]
        self.head = next((p for stage, p in found if stage.ends), None)
        self.embed = next((p for stage, p in found if stage.begins), None)
        self.group, self.first, self.last = group, first, last

    @torch.no_grad()
    def add_up(self) -> None:
        """Both copies get the sum of their gradients."""
        if self.embed is not None and self.head is not None:
            _give(self.embed, self.head)
        elif self.embed is not None:
            self._exchange(self.embed, self.last)
        elif self.head is not None:
            self._exchange(self.head, self.first)

    def _exchange(self, own: nn.Parameter, peer: int) -> None:
        if not own.requires_grad:
            return
        mine = _local(_gradient(own))
        theirs = torch.empty_like(mine)
        there = dist.get_global_rank(self.group, peer)
        works = dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, mine, there, self.group), dist.P2POp(dist.irecv, theirs, there, self.group)]
        )
        for work in works:
            work.wait()
        mine += theirs


def _give(embed: nn.Parameter, head: nn.Parameter) -> None:
    if embed.requires_grad:
        total, copy = _local(_gradient(embed)), _local(_gradient(head))
        total += copy
        copy.copy_(total)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
