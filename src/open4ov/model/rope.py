"""Rotary positions: interleaved M-RoPE for the decoder, 2-D axial for the vision tower. No parameters, no buffers.

Shapes: T tokens, P patches, d head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import TextConfig, VisionConfig


def text_angles(config: TextConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [T, d] in float32 of M-RoPE positions [3, T] (time, height, width).

    Interleaved layout (Qwen3-VL): frequency j belongs to height if j % 3 == 1 and j < 3 * section[1], to width if
    j % 3 == 2 and j < 3 * section[2], to time otherwise.
    """
    device, d = positions.device, config.head_dim
    frequencies = 1.0 / config.rope_theta ** (torch.arange(0, d, 2, device=device).float() / d)
    axis = torch.zeros(d // 2, dtype=torch.long, device=device)
    for a in (1, 2):
        axis[a : 3 * config.mrope_section[a] : 3] = a
    angles = positions.float()[axis].T * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)


def vision_angles(config: VisionConfig, coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [P, d] in float32 of patch coordinates [P, 2] (row, column)."""
    quarter = config.head_dim // 2
    exponents = torch.arange(0, quarter, 2, device=coordinates.device).float() / quarter
    angles = (coordinates[:, :, None].float() / config.rope_theta**exponents).flatten(1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns x [T, heads, d] by the angles cos, sin [T, d]; computed in the angles' type, returned in x's."""
    first, second = x.chunk(2, dim=-1)
    turned = x * cos[:, None] + torch.cat((-second, first), -1) * sin[:, None]
    return turned.to(x.dtype)
