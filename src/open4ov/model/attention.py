"""Attention over packed tokens: documents lie end to end in [T, ...] and are padded to [B, L, ...] only inside SDPA.

Shapes: T tokens in the pack, B documents, L longest document, H heads, K key-value heads, d head dim.
Padding sits at the end of a row: causal attention never looks there, bidirectional attention masks it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 256
"""Documents up to this many tokens take the explicit product on a CPU in half precision, where SDPA is several times
slower, in decoding and in its backward pass; longer ones would need too much memory."""


def pad_indices(cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """`pad` [B, L] (token of each padded slot; a padding slot repeats token 0) and `unpad` [T] (slot of each token).

    `cu_seqlens` [B + 1]: document b holds the tokens cu_seqlens[b] .. cu_seqlens[b + 1] - 1.
    """
    starts, lengths = cu_seqlens[:-1], cu_seqlens.diff()
    longest = int(lengths.max())
    columns = torch.arange(longest, device=cu_seqlens.device)
    real = columns < lengths[:, None]
    pad = torch.where(real, starts[:, None] + columns, 0)
    return pad, real.flatten().nonzero()[:, 0]


class _Pad(torch.autograd.Function):
    """Packed to padded. The gradient is a plain gather: padding slots carry none (an index_add would be slow)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: Tensor, unpad: Tensor) -> Tensor:
        ctx.save_for_backward(unpad)
        return x.index_select(0, pad.flatten()).view(*pad.shape, *x.shape[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (unpad,) = ctx.saved_tensors
        return gradients[0].flatten(0, 1).index_select(0, unpad), None, None


class _Unpad(torch.autograd.Function):
    """Padded to packed; padding slots get zero gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: Tensor, unpad: Tensor) -> Tensor:
        ctx.save_for_backward(pad, unpad)
        return x.flatten(0, 1).index_select(0, unpad)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        pad, unpad = ctx.saved_tensors
        gradient = gradients[0]
        padded = gradient.new_zeros(pad.numel(), *gradient.shape[1:]).index_copy(0, unpad, gradient)
        return padded.view(*pad.shape, *gradient.shape[1:]), None, None


def to_padded(x: Tensor, pad: Tensor, unpad: Tensor) -> Tensor:
    """x [T, heads, d] -> [B, heads, L, d]."""
    padded: Tensor = _Pad.apply(x, pad, unpad)  # pyright: ignore[reportAssignmentType]
    return padded.transpose(1, 2)


def to_packed(x: Tensor, pad: Tensor, unpad: Tensor) -> Tensor:
    """x [B, heads, L, d] -> [T, heads * d]."""
    packed: Tensor = _Unpad.apply(x.transpose(1, 2), pad, unpad)  # pyright: ignore[reportAssignmentType]
    return packed.flatten(1)


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """q [B, H, L, d], k and v [B, K, S, d], `mask` broadcastable to [B, 1, L, S] (True: may look) -> [B, H, L, d]."""
    if q.device.type == "cpu" and q.dtype != torch.float32 and k.shape[2] <= SHORT:
        return _explicit(q, k, v, causal, mask)
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa)


def _explicit(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """The same by its definition, softmax in float32; a key-value head meets all its queries in one product."""
    batch, heads, length, d = q.shape
    groups, seen = heads // k.shape[1], k.shape[2]
    q, k, v = q.reshape(-1, groups * length, d), k.reshape(-1, seen, d), v.reshape(-1, seen, d)
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, seen).float() * d**-0.5
    if causal:
        ahead = torch.ones(length, seen, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(ahead, -torch.inf)
    elif mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).to(q.dtype)
    return torch.bmm(weights.view(-1, groups * length, seen), v).view(batch, heads, length, d)


def causal(q: Tensor, k: Tensor, v: Tensor, pad: Tensor, unpad: Tensor) -> Tensor:
    """Causal attention inside each document. q [T, H, d], k and v [T, K, d] -> [T, H * d]."""
    q, k, v = (to_padded(x, pad, unpad) for x in (q, k, v))
    out = _attend(q, k, v, causal=True)
    return to_packed(out, pad, unpad)


def cached(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, pad: Tensor, unpad: Tensor) -> Tensor:
    """New tokens against a cache that already holds them. q [T, H, d], keys and values [B, S, K, d],
    mask [B, 1, L, S] (True: may look) -> [T, H * d]."""
    q, k, v = to_padded(q, pad, unpad), keys.transpose(1, 2), values.transpose(1, 2)
    out = _attend(q, k, v, mask=mask)
    return to_packed(out, pad, unpad)


def bidirectional(q: Tensor, k: Tensor, v: Tensor, pad: Tensor, unpad: Tensor, mask: Tensor | None) -> Tensor:
    """Full attention inside each document (an image). q, k, v [T, H, d] -> [T, H * d].

    `mask` [B, 1, 1, L] marks real slots; None says that all documents have equal length (no padding at all).
    """
    if mask is None:
        q, k, v = (x.reshape(*pad.shape, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        out = _attend(q, k, v)
        return out.transpose(1, 2).reshape(-1, out.shape[1] * out.shape[3])
    q, k, v = (to_padded(x, pad, unpad) for x in (q, k, v))
    out = _attend(q, k, v, mask=mask)
    return to_packed(out, pad, unpad)
