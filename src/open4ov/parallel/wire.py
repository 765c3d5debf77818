"""What goes from one stage of a pipeline to the next, in shapes that PyTorch's schedules can allocate ahead.

They want the same shapes of all microbatches of a step, while packs differ in length. So what is *sent* is filled up to
the step's longest shard and most visual tokens; what is computed is not: a stage cuts off again what was filled up.

Shapes: S tokens of the shard, L of the longest, R rows of the taps, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Wire:
    """The shapes of a step. `moving`: whether the taps have gradients, as the vision tower is trained."""

    tokens: int
    """L"""
    rows: int
    """R"""
    size: int
    """D"""
    dtype: torch.dtype
    device: torch.device
    moving: bool

    def samples(self, taps: int) -> tuple[Tensor, ...]:
        """What passes a border that `taps` taps cross, on the meta device."""
        with torch.device("meta"):
            states = torch.empty(self.tokens, self.size, dtype=self.dtype, requires_grad=True)
            if not self.carries(taps):
                return (states,)
            shape = (taps, self.rows, self.size)
            return states, torch.empty(*shape, dtype=self.dtype, requires_grad=self.moving)

    def carries(self, taps: int) -> bool:
        """Whether taps are sent over such a border: a step without a picture has none to send."""
        return taps > 0 and self.rows > 0

    def packed(self, states: Tensor, taps: Tensor) -> tuple[Tensor, ...]:
        """states [S, D], taps [taps, R, D] -> what is sent."""
        fill = self.tokens - len(states)
        sent = [F.pad(states, (0, 0, 0, fill)) if fill else states]
        if self.carries(len(taps)):
            sent.append(taps)
        return tuple(_apart(x.to(self.dtype)) for x in sent)

    def unpacked(self, tokens: int, received: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """What was received -> states [S, D], taps [taps, R, D]; none of them where none were sent."""
        states, *taps = (_Whole.apply(x) for x in received)
        assert isinstance(states, Tensor)
        return states[:tokens], taps[0] if taps else states.new_zeros(0, self.rows, self.size)  # pyright: ignore[reportReturnType]


def _apart(x: Tensor) -> Tensor:
    """The tensor with memory of its own, in order: what is sent must be, and PyTorch detaches it in place."""
    return x.contiguous() if not x._is_view() else x.clone(memory_format=torch.contiguous_format)  # pyright: ignore[reportPrivateUsage]


class _Whole(torch.autograd.Function):
    """The same tensor. Its gradient is laid out in order, as it will be sent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], gradients[0].new_ones((), dtype=torch.float32)


def attached(x: Tensor, value: Tensor) -> Tensor:
    """x, with a float32 scalar that is added to the loss, wherever that is computed: the value gets gradient 1 when x
    gets its own. So a stage adds its layers' balancing loss to that of the last stage."""
    out: Tensor = _Attached.apply(x, value)  # pyright: ignore[reportAssignmentType]
    return out
