"""Experts in FP8 as one product over all of them, by DeepGEMM where it is installed (Hopper and later).

DeepGEMM scales blocks: 128 inputs of a row of activations, 128 x 128 of the weights. Every expert's rows begin at a
multiple of its own block of rows; rows between are marked with -1 and not computed.

Shapes: T rows sorted by expert, P padded rows, K inputs, N outputs, E experts.

Not run on a GPU yet: its layout and arithmetic are tested against a stand-in.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from open4ov.engine.fp8 import LARGEST
from open4ov.errors import UserError

BLOCK = 128
"""K and N must be multiples of this."""


class GroupedExperts:
    """As `fp8.Fp8Experts`. `library` is the module deep_gemm."""

    def __init__(self, weight: Tensor, library: Any) -> None:
        self.values, self.scales = blocks_to_fp8(weight)
        self.nbytes = self.values.nbytes + self.scales.nbytes
        self._product = library.m_grouped_fp8_gemm_nt_contiguous
        self._rows: int = library.get_mk_alignment_for_contiguous_layout()

    def __call__(self, x: Tensor, counts: Tensor) -> Tensor:
        places, experts = layout(counts, len(x), self._rows)
        values, scales = rows_to_fp8(x)
        padded = values.new_zeros(len(experts), x.shape[1])
        padded.view(torch.uint8)[places] = values.view(torch.uint8)  # no indexing of FP8
        padded_scales = scales.new_ones(len(experts), scales.shape[1]).index_copy(0, places, scales)
        out = x.new_empty(len(experts), self.values.shape[1], dtype=torch.bfloat16)
        self._product((padded, padded_scales), (self.values, self.scales), out, experts)
        return out[places]


def installed() -> Any:
    """The module deep_gemm, or None where it is not installed. Raises UserError for one that lacks what is needed."""
    if importlib.util.find_spec("deep_gemm") is None:
        return None
    import deep_gemm  # pyright: ignore[reportMissingImports]

    needed = ("m_grouped_fp8_gemm_nt_contiguous", "get_mk_alignment_for_contiguous_layout")
    if missing := [name for name in needed if not hasattr(deep_gemm, name)]:
        raise UserError(f"quantize: the installed deep_gemm has no {missing[0]}; install its newest, or uninstall it")
    return deep_gemm


def fits(weight: Tensor) -> bool:
    """Whether DeepGEMM takes weights of this shape [E, N, K]."""
    return not any(size % BLOCK for size in weight.shape[1:])


def layout(counts: Tensor, total: int, block: int) -> tuple[Tensor, Tensor]:
    """Where the `total` rows go [T], and the expert of every padded row, int32 [P], -1 where there is none.

    P is the most that so many rows can need, so that nobody waits for the counts.
    """
    experts = torch.arange(len(counts), device=counts.device)
    of_row = experts.repeat_interleave(counts, output_size=total)
    used = -(-counts // block) * block
    shift = (used.cumsum(0) - used) - (counts.cumsum(0) - counts)
    places = torch.arange(total, device=counts.device) + shift[of_row]
    padded = (total + (block - 1) * len(counts)) // block * block
    table = torch.full((padded,), -1, dtype=torch.int32, device=counts.device)
    return places, table.index_copy(0, places, of_row.int())


def rows_to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [T, K] in e4m3 and the scales of its blocks, float32 [T, K / 128]."""
    parts = x.float().unflatten(-1, (-1, BLOCK))
    scales = _scales(parts.abs().amax(-1))
    return (parts / scales[..., None]).to(torch.float8_e4m3fn).flatten(-2), scales


def blocks_to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [E, N, K] in e4m3 and the scales of its blocks, float32 [E, N / 128, K / 128]."""
    parts = weight.float().unflatten(-1, (-1, BLOCK)).unflatten(1, (-1, BLOCK))  # [E, N/128, 128, K/128, 128]
    scales = _scales(parts.abs().amax((2, 4)))
    return (parts / scales[:, :, None, :, None]).to(torch.float8_e4m3fn).flatten(-2).flatten(1, 2), scales


def _scales(largest: Tensor) -> Tensor:
    return largest.clamp_min(torch.finfo(torch.float32).tiny * LARGEST) / LARGEST
