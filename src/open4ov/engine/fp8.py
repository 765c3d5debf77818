"""FP8 products on a GPU (e4m3; compute capability 8.9 or more): weights scaled by output, activations by token.

A value v of a row whose largest is a is held as round(448 v / a) in e4m3, which is 448 at most and has 3 bits after the
leading one: |error| <= max(|v| / 16, a / (448 * 1024)). Products are summed in float32 and given in bfloat16.

Experts are one grouped product on a Hopper GPU (or DeepGEMM's, `deepgemm.py`), and go one by one elsewhere.

Shapes: T rows, K inputs, N outputs, E experts.

Both have run on an H200 (`tests/engine/test_quantize.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 448.0
"""The largest number of e4m3"""
MULTIPLE = 16
"""K and N must be multiples of this; T is made one on a GPU."""

MOST_KERNELS = 64
"""For rows of all widths together"""

HOPPER = (9, 0)
"""Compute capability of the GPUs whose grouped FP8 products PyTorch has"""
ROWS = F.ScalingType.RowWise


class Fp8Matrix:
    """The weights [N, K] of one linear layer; called with x [..., K] it gives bfloat16 [..., N]."""

    def __init__(self, weight: Tensor) -> None:
        self.values, self.scales = to_fp8(weight)
        self.nbytes = self.values.nbytes + self.scales.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        rows, scales = rows_to_fp8(x.flatten(0, -2))
        return product(rows, scales, self.values, self.scales).unflatten(0, x.shape[:-1])


class Fp8Experts:
    """The weights [E, N, K] of experts; called with x [T, K] sorted by expert and `counts` [E], the rows of each, it
    gives bfloat16 [T, N]."""

    def __init__(self, weight: Tensor) -> None:
        self.values, self.scales = to_fp8(weight)
        hopper = weight.is_cuda and torch.cuda.get_device_capability(weight.device) == HOPPER
        self.one_by_one = not hopper
        self._products = loop if self.one_by_one else grouped
        self.nbytes = self.values.nbytes + self.scales.nbytes

    def __call__(self, x: Tensor, counts: Tensor) -> Tensor:
        rows, scales = rows_to_fp8(x)
        return self._products(rows, scales, self.values, self.scales, counts)


def to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., K] in e4m3, and what to multiply its rows by: float32 [..., 1]."""
    x = x.float()
    scales = x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny * LARGEST) / LARGEST
    return (x / scales).to(torch.float8_e4m3fn), scales


def rows_to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """`to_fp8`, on a GPU as one kernel: the products are so fast that seven small ones take longer."""
    if not x.is_cuda:
        return to_fp8(x)
    torch._dynamo.mark_static(x, 1)  # a kernel that knows a row's width reads it once, one that does not twice
    return _compiled()(x)


@cache
def _compiled() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    # two kernels a width; beyond so many of a function PyTorch would compute the rest as it is
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MOST_KERNELS)
    return torch.compile(to_fp8, dynamic=True)


def product(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
    """x [T, K] and weight [N, K] in e4m3 with scales [T, 1] and [N, 1] -> bfloat16 [T, N]."""
    count = len(x)
    if x.is_cuda and count % MULTIPLE:
        rest = -count % MULTIPLE
        x = F.pad(x.view(torch.uint8), (0, 0, 0, rest)).view(x.dtype)  # no padding of FP8
        x_scales = F.pad(x_scales, (0, 0, 0, rest))
    out = F.scaled_mm(x, weight.t(), x_scales, ROWS, weight_scales.t(), ROWS, output_dtype=torch.bfloat16)
    return out[:count]


def grouped(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor, counts: Tensor) -> Tensor:
    """x [T, K] sorted by expert, of which expert e has `counts[e]` rows, and weight [E, N, K] in e4m3, with scales
    [T, 1] and [E, N, 1] -> bfloat16 [T, N]. Nobody waits for the counts."""
    ends = counts.cumsum(0).to(torch.int32)
    weight, weight_scales = weight.transpose(1, 2), weight_scales[..., 0]
    product = F.scaled_grouped_mm  # pyright: ignore[reportAttributeAccessIssue]
    return product(x, weight, x_scales[:, 0], ROWS, weight_scales, ROWS, offs=ends)


def loop(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor, counts: Tensor) -> Tensor:
    """The same, one product for each expert."""
    lengths: Sequence[int] = counts.tolist()
    out = x.new_empty(len(x), weight.shape[1], dtype=torch.bfloat16)
    start = 0
    for expert, length in enumerate(lengths):
        part = slice(start, start := start + length)
        if length:
            out[part] = product(x[part], x_scales[part], weight[expert], weight_scales[expert])
    return out
