"""Rotary positions: interleaved M-RoPE for the decoder, 2-D axial for the vision tower. No parameters, no buffers.

The angles of a batch are worked out once, as a table of cos and sin; `rotate` applies it in one operator whose gradient
is the same turn backwards (paper §5.1: operators fused). The sine's sign for the first half of a head is in the table,
so that a turn is x * cos + (halves of x swapped) * sin.

Shapes: T tokens, P patches, d head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .config import TextConfig, VisionConfig


def text_angles(config: TextConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The table (cos and signed sin, [T, d] in float32) of M-RoPE positions [3, T] (time, height, width).

    Interleaved layout (Qwen3-VL): frequency j belongs to height if j % 3 == 1 and j < 3 * section[1], to width if
    j % 3 == 2 and j < 3 * section[2], to time otherwise.
    """
    device, d = positions.device, config.head_dim
    frequencies = 1.0 / config.rope_theta ** (torch.arange(0, d, 2, device=device).float() / d)
    axis = torch.zeros(d // 2, dtype=torch.long, device=device)
    for a in (1, 2):
        axis[a : 3 * config.mrope_section[a] : 3] = a
    angles = positions.float()[axis].T * frequencies
    return _table(angles)


def vision_angles(config: VisionConfig, coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """The table (cos and signed sin, [P, d] in float32) of patch coordinates [P, 2] (row, column)."""
    quarter = config.head_dim // 2
    exponents = torch.arange(0, quarter, 2, device=coordinates.device).float() / quarter
    angles = (coordinates[:, :, None].float() / config.rope_theta**exponents).flatten(1)
    return _table(angles)


def _table(angles: Tensor) -> tuple[Tensor, Tensor]:
    """angles [T, d / 2] -> cos and signed sin [T, d]."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns x [T, heads, d] by a table cos, sin [T, d]; computed in the table's type, returned in x's."""
    if torch.compiler.is_compiling():  # the compiler fuses it, and its gradient
        return (x * cos[:, None] + _swapped(x) * sin[:, None]).to(x.dtype)
    turned: Tensor = _Rotate.apply(x, cos, sin)  # pyright: ignore[reportAssignmentType]
    return turned


class _Rotate(torch.autograd.Function):
    """A turn; its gradient is the turn back. Keeps nothing but the table."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos[:, None]).addcmul_(_swapped(x), sin[:, None]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        gradient = gradients[0]
        turned = (gradient * cos[:, None]).addcmul_(_swapped(gradient), sin[:, None], value=-1)
        return turned.to(gradient.dtype), None, None


def _swapped(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), -1)
