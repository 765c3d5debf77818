"""FP8 products on a GPU (e4m3; compute capability 8.9 or more): weights scaled by output, activations by token.

A value v of a row whose largest is a is held as round(448 v / a) in e4m3, which is 448 at most and has 3 bits after the
leading one: |error| <= max(|v| / 16, a / (448 * 1024)). Products are summed in float32 and given in bfloat16.

Experts go one by one, or all in one product of DeepGEMM (`deepgemm.py`).

Shapes: T rows, K inputs, N outputs, E experts.

The products of linear layers have run on an H100; those of experts have not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 448.0
"""The largest number of e4m3"""
MULTIPLE = 16
"""K and N must be multiples of this."""

ROWS = F.ScalingType.RowWise


class Fp8Matrix:
    """The weights [N, K] of one linear layer; called with x [..., K] it gives bfloat16 [..., N]."""

    def __init__(self, weight: Tensor) -> None:
        self.values, self.scales = to_fp8(weight)
        self.nbytes = self.values.nbytes + self.scales.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        rows, scales = to_fp8(x.flatten(0, -2))
        return product(rows, scales, self.values, self.scales).unflatten(0, x.shape[:-1])


class Fp8Experts:
    """The weights [E, N, K] of experts; called with x [T, K] sorted by expert and `counts` [E], the rows of each, it
    gives bfloat16 [T, N]. One product for each expert."""

    def __init__(self, weight: Tensor) -> None:
        self.values, self.scales = to_fp8(weight)
        self.nbytes = self.values.nbytes + self.scales.nbytes

    def __call__(self, x: Tensor, counts: Tensor) -> Tensor:
        rows, scales = to_fp8(x)
        lengths: Sequence[int] = counts.tolist()
        out = x.new_empty(len(x), self.values.shape[1], dtype=torch.bfloat16)
        start = 0
        for expert, length in enumerate(lengths):
            part = slice(start, start := start + length)
            if length:
                out[part] = product(rows[part], scales[part], self.values[expert], self.scales[expert])
        return out


def to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., K] in e4m3, and what to multiply its rows by: float32 [..., 1]."""
    x = x.float()
    scales = x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny * LARGEST) / LARGEST
    return (x / scales).to(torch.float8_e4m3fn), scales


def product(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
    """x [T, K] and weight [N, K] in e4m3 with scales [T, 1] and [N, 1] -> bfloat16 [T, N]."""
    return F.scaled_mm(x, weight.t(), x_scales, ROWS, weight_scales.t(), ROWS, output_dtype=torch.bfloat16)
