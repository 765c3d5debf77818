"""INT8 products on a CPU: weights of 8 bits with a scale for each output, activations of 7 bits with one for each row.

FBGEMM (part of PyTorch on x86) multiplies them; it knows one scale for the whole input, so every row is divided by its
largest value before and multiplied by it after. What a row gives thus does not depend on the rows beside it, and sums
of whole numbers are exact. 7 bits, since without VNNI instructions two products are added in 16 bits: 2 * 127 * 128
fits, 2 * 255 * 128 would be cut off without a word.

|error| of y = x W^T is at most, with s = max|w| / 127 of the output's weights and a = max|x| of the row,
sum|x| s / 2 + (sum|w| + K s / 2) a / 126, besides the rounding of floats.

Shapes: T rows, K inputs, N outputs, E experts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

WEIGHT_LEVELS = 127
ROW_LEVELS = 63


class Int8Matrix:
    """The weights [N, K] of one linear layer, packed for FBGEMM; called with x [..., K] it gives float32 [..., N]."""

    def __init__(self, weight: Tensor) -> None:
        self.nbytes = _bytes(weight)
        self._packed = _pack(weight)

    def __call__(self, x: Tensor) -> Tensor:
        rows, largest = _scaled(x)
        return _product(rows, self._packed).mul_(largest)


class Int8Experts:
    """The weights [E, N, K] of experts; called with x [T, K] sorted by expert and `counts` [E], the rows of each, it
    gives float32 [T, N]."""

    def __init__(self, weight: Tensor) -> None:
        self.nbytes = sum(map(_bytes, weight))
        self.outputs = weight.shape[1]
        self._packed = [_pack(one) for one in weight]

    def __call__(self, x: Tensor, counts: Tensor) -> Tensor:
        rows, largest = _scaled(x)
        lengths: Sequence[int] = counts.tolist()
        parts = zip(rows.split(list(lengths)), self._packed, strict=True)
        out = [_product(part, packed) for part, packed in parts if len(part)]
        return torch.cat(out).mul_(largest) if out else x.new_empty(0, self.outputs, dtype=torch.float32)


def available() -> bool:
    """Whether this PyTorch has FBGEMM and this processor can run it (x86 with AVX2)."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """x in float32 with every row within -1 .. 1, and what to multiply the rows by [..., 1]."""
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
    return x / largest, largest


def _product(rows: Tensor, packed: Any) -> Tensor:
    op = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return op(rows, 1 / ROW_LEVELS, ROW_LEVELS + 1, packed)


def _pack(weight: Tensor) -> Any:
    """FBGEMM's form of a matrix [N, K]. The engine is a setting of the whole process that only packing looks at."""
    weight = weight.float()
    scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny).double() / WEIGHT_LEVELS
    before = torch.backends.quantized.engine
    try:
        torch.backends.quantized.engine = "fbgemm"
        with warnings.catch_warnings():
            # PyTorch means to drop tensors of quantised types, the only way into FBGEMM's packing as of 2.13
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor")
            quantised = torch.quantize_per_channel(
                weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
            )
            return torch.ops.quantized.linear_prepack(quantised, None)
    finally:
        torch.backends.quantized.engine = before


def _bytes(weight: Tensor) -> int:
    """A byte for each weight; for each output a scale, a zero point and a sum, of 4 bytes each."""
    return weight.numel() + 12 * len(weight)
