"""Attention of several continuations of one prompt over that prompt and over themselves, the prompt's keys not copied.

The continuations of a prompt lie end to end, and to the prompt's keys their tokens are all alike: one product has all
of them as rows. What a continuation sees of itself is a second part, and the two are put together by the logarithms of
their sums: with o1, o2 the results of the parts and l1, l2 the logarithms of their sums,

    l = log(exp l1 + exp l2),   o = exp(l1 - l) o1 + exp(l2 - l) o2,

which is attention over both. The gradient needs no more than o and l: each part's own backward pass, given the result
and the sum of the whole instead of its own, gives that part's share.

Shapes: G prompts, P tokens of all prompts, B continuations, R tokens of all continuations, H heads, K key-value heads,
m = H / K, d head dim; in a group of like length b continuations, the longest of l tokens, in S = b l slots. Most of the
work is done on queries by key-value head, [K, R, m, d]: all rows that meet the same keys lie together then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import SHORT, Documents, to_packed, to_padded

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
COPIED = 128
"""Prompts up to this many tokens have their keys laid before each continuation's: one call of SDPA for all is faster
then than two parts"""
_NOTHING = 1e4
"""The logarithm of the sum that a padding slot gets: its weights exp(score - this) are zero"""


@dataclass(frozen=True)
class Continuations:
    """Where the continuations of the prompts of a pack lie. The prompts come first, then all continuations, those of
    the first prompt before those of the second."""

    prompts: Documents
    own: Documents
    """The continuations as documents of their own"""
    prompt_of: Tensor
    """Long [B]: the prompt of each continuation"""
    spans: tuple[tuple[int, int, int, int], ...]
    """Of each prompt: its first token and the one after its last, among P, and those of its continuations, among R"""

    @staticmethod
    def of(prompt_lengths: Tensor, lengths: Tensor, prompt_of: Tensor) -> Continuations:
        """prompt_lengths [G], lengths [B], prompt_of [B], which never falls."""
        prompts = Documents.of(F.pad(prompt_lengths.cumsum(0), (1, 0)))
        own = torch.zeros_like(prompt_lengths).index_add(0, prompt_of, lengths).cumsum(0)
        ends = prompts.cu_seqlens.tolist(), F.pad(own, (1, 0)).tolist()
        spans = tuple(zip(ends[0][:-1], ends[0][1:], ends[1][:-1], ends[1][1:], strict=True))
        return Continuations(prompts, Documents.of(F.pad(lengths.cumsum(0), (1, 0))), prompt_of, spans)

    def to(self, device: torch.device | str) -> Continuations:
        moved = (x.to(device) for x in (self.prompts, self.own, self.prompt_of))
        return replace(self, **dict(zip(("prompts", "own", "prompt_of"), moved, strict=True)))

    @cached_property
    def mask(self) -> Tensor:
        """Bool [B, 1, L, Lp + L], L and Lp longest continuation and prompt: which keys a token may look at when a
        prompt's keys are laid before each continuation's."""
        longest, device = self.own.pad.shape[1], self.prompt_of.device
        with torch.inference_mode(False):
            lengths = self.prompts.cu_seqlens.diff()
            before = torch.arange(self.prompts.pad.shape[1], device=device) < lengths[self.prompt_of][:, None]
            own = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
            parts = (before[:, None].expand(-1, longest, -1), own.expand(len(before), -1, -1))
            return torch.cat(parts, dim=-1)[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, shared: tuple[Tensor, Tensor], layout: Continuations) -> Tensor:
    """q [R, H, d], k and v [R, K, d] of the continuations, `shared` keys and values [P, K, d] of the prompts
    -> [R, H * d]. In float32 on a CPU without copies of long prompts' keys; elsewhere these are laid before each
    continuation's own, for whatever kernel SDPA has."""
    if q.device.type != "cpu" or q.dtype != torch.float32 or layout.prompts.pad.shape[1] <= COPIED:
        return _laid_before(q, k, v, shared, layout)
    out: Tensor = _InTwoParts.apply(q, k, v, *shared, layout)  # pyright: ignore[reportAssignmentType]
    return out.flatten(1)


def _laid_before(q: Tensor, k: Tensor, v: Tensor, shared: tuple[Tensor, Tensor], layout: Continuations) -> Tensor:
    keys, values = (
        torch.cat(
            [to_padded(part, layout.prompts).index_select(0, layout.prompt_of), to_padded(own, layout.own)], dim=2
        )
        for part, own in zip(shared, (k, v), strict=True)
    )
    gqa = q.shape[1] != k.shape[1]
    queries = to_padded(q, layout.own)
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=layout.mask, enable_gqa=gqa)
    return to_packed(out, layout.own)


class _InTwoParts(torch.autograd.Function):
    """Keeps queries, keys, values, the result and the logarithms of the sums."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, shared_k: Tensor, shared_v: Tensor, layout: Continuations
    ) -> Tensor:
        rows = _by_head(q, k.shape[1])
        parts = []
        for first, last, begin, end in layout.spans:
            keys, values = (_of_prompt(x, first, last) for x in (shared_k, shared_v))
            parts.append(_flash(rows[:, begin:end].flatten(1, 2)[None], keys, values))
        shared = torch.cat([out[0] for out, _ in parts], dim=1).view_as(rows)
        shared_sum = torch.cat([total[0] for _, total in parts], dim=1).view(rows.shape[:3])
        out, total = _whole(rows, k, v, shared, shared_sum, layout.own)
        result = _by_token(out)
        ctx.save_for_backward(rows, k, v, shared_k, shared_v, result, total)
        ctx.layout = layout
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, k, v, shared_k, shared_v, result, total = ctx.saved_tensors
        layout: Continuations = ctx.layout
        up, out = (_by_head(x, k.shape[1]) for x in (gradients[0], result))
        of_rows, of_keys, of_values = [], torch.empty_like(shared_k), torch.empty_like(shared_v)
        for first, last, begin, end in layout.spans:
            keys, values = (_of_prompt(x, first, last) for x in (shared_k, shared_v))
            of_out, queries, seen, sums = (x[:, begin:end].flatten(1, 2)[None] for x in (up, rows, out, total))
            found = _flash_backward(of_out, queries, keys, values, seen, sums, 0.0, False)
            of_rows.append(found[0][0])
            of_keys[first:last], of_values[first:last] = (x[0].transpose(0, 1) for x in found[1:])
        own, of_k, of_v = _own_gradients(up, rows, k, v, out, total, layout.own)
        of_q = _by_token(torch.cat(of_rows, dim=1).view_as(rows).add_(own))
        return of_q, of_k, of_v, of_keys, of_values, None


def _whole(
    rows: Tensor, k: Tensor, v: Tensor, shared: Tensor, shared_sum: Tensor, own: Documents
) -> tuple[Tensor, Tensor]:
    """Attention over prompt and continuation [K, R, m, d], and the logarithms of its sums [K, R, m], from what was seen
    of the prompt: `shared` and `shared_sum`."""
    if own.pad.shape[1] > SHORT:
        parts = _by_flash(rows, k, v, own)
        mine, sums = (_from_groups([part[place] for part in parts], own) for place in (0, 1))
        total = torch.logaddexp(shared_sum, sums)
        return torch.lerp(mine, shared, (shared_sum - total).exp_()[..., None]), total
    laid = [_laid_out(x, own) for x in (rows, k.transpose(0, 1), v.transpose(0, 1))]
    scores = [_scores(q, keys) for q, keys in zip(laid[0], laid[1], strict=True)]
    sums = [part.logsumexp(-1).view(q.shape[:-1]) for part, q in zip(scores, laid[0], strict=True)]
    total = torch.logaddexp(shared_sum, _from_groups(sums, own))
    seen = []
    for part, values, whole in zip(scores, laid[2], _laid_out(total, own, _NOTHING), strict=True):
        weights = part.sub_(whole.reshape(*part.shape[:2], 1)).exp_()
        seen.append(torch.bmm(weights, values.flatten(0, 1)).view(*whole.shape, -1))
    share = (shared_sum - total).exp_()[..., None]
    return shared.mul_(share).add_(_from_groups(seen, own)), total


def _own_gradients(
    up: Tensor, rows: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, own: Documents
) -> tuple[Tensor, Tensor, Tensor]:
    """The share of what a continuation sees of itself in the gradients of queries [K, R, m, d], keys and values
    [R, K, d]; `out` and `total` are of the whole."""
    if own.pad.shape[1] > SHORT:
        return _flash_gradients(up, rows, k, v, out, total, own)
    mean = (up * out).sum(-1)
    laid = [_laid_out(x, own) for x in (rows, k.transpose(0, 1), v.transpose(0, 1))]
    whole = [_laid_out(x, own, empty) for x, empty in ((up, 0.0), (mean, 0.0), (total, _NOTHING))]
    found: tuple[list[Tensor], ...] = ([], [], [])
    for queries, keys, values, of_out, of_mean, sums in zip(*laid, *whole, strict=True):
        shape, kv_shape = queries.shape, keys.shape
        scores = _scores(queries, keys)
        queries, of_out = (x.reshape(len(scores), -1, shape[-1]) for x in (queries, of_out))
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        weights = scores.sub_(sums.reshape(*scores.shape[:2], 1)).exp_()
        found[2].append(torch.bmm(weights.transpose(1, 2), of_out).view(kv_shape))
        of_scores = torch.bmm(of_out, values.transpose(1, 2)).sub_(of_mean.reshape(*scores.shape[:2], 1))
        of_scores.mul_(weights).mul_(shape[-1] ** -0.5)
        found[0].append(torch.bmm(of_scores, keys).view(shape))
        found[1].append(torch.bmm(of_scores.transpose(1, 2), queries).view(kv_shape))
    of_rows, of_k, of_v = (_from_groups(parts, own) for parts in found)
    return of_rows, of_k.transpose(0, 1), of_v.transpose(0, 1)


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """queries [K, b, l, m, d], keys [K, b, l, d] -> [K b, l m, l]; minus infinity at keys that come later."""
    heads, count, length, per, size = queries.shape
    later = torch.full((length, length), -torch.inf).triu_(1).repeat_interleave(per, dim=0)
    folded = queries.reshape(heads * count, length * per, size)
    return torch.baddbmm(later, folded, keys.flatten(0, 1).transpose(1, 2), alpha=size**-0.5)


def _by_flash(rows: Tensor, k: Tensor, v: Tensor, own: Documents) -> list[tuple[Tensor, Tensor]]:
    """Of long continuations, for each group of like length what they see of themselves [K, b, l, m, d], and the
    logarithms of the sums [K, b, l, m]."""
    found = []
    for queries, keys, values in zip(*_each_head(rows, k, v, own), strict=True):
        out, total = _flash(queries, keys, values, is_causal=True)
        heads = (len(rows), -1)
        found.append(
            (out.unflatten(1, heads).permute(1, 0, 3, 2, 4), total.unflatten(1, heads).permute(1, 0, 3, 2)),
        )
    return found


def _flash_gradients(
    up: Tensor, rows: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, own: Documents
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_own_gradients`, for long continuations."""
    whole = [
        [x.permute(1, 0, 3, 2, *range(4, x.dim())).flatten(1, 2) for x in _laid_out(one, own, empty)]
        for one, empty in ((up, 0.0), (out, 0.0), (total, _NOTHING))
    ]
    found: tuple[list[Tensor], ...] = ([], [], [])
    for queries, keys, values, of_out, mine, sums in zip(*_each_head(rows, k, v, own), *whole, strict=True):
        gradients = _flash_backward(of_out, queries, keys, values, mine, sums, 0.0, True)
        for parts, x in zip(found, gradients, strict=True):
            parts.append(x.unflatten(1, (len(rows), -1)).permute(1, 0, 3, 2, 4))
    of_rows, of_k, of_v = (_from_groups(parts, own) for parts in found)
    return of_rows, of_k.sum(2).transpose(0, 1), of_v.sum(2).transpose(0, 1)


def _each_head(rows: Tensor, k: Tensor, v: Tensor, own: Documents) -> list[list[Tensor]]:
    """Queries, keys and values [b, H, l, d] of each group of like length; each head has keys and values of its own."""
    per = rows.shape[2]
    same = [rows, *(x.transpose(0, 1)[:, :, None].expand(-1, -1, per, -1) for x in (k, v))]
    return [[x.permute(1, 0, 3, 2, 4).flatten(1, 2) for x in _laid_out(one, own)] for one in same]


def _by_head(x: Tensor, heads: int) -> Tensor:
    """x [R, H, d] -> [K, R, m, d]."""
    return x.unflatten(1, (heads, -1)).transpose(0, 1).contiguous()


def _by_token(x: Tensor) -> Tensor:
    """x [K, R, m, d] -> [R, H, d]."""
    return x.transpose(0, 1).flatten(1, 2)


def _of_prompt(x: Tensor, first: int, last: int) -> Tensor:
    """Keys or values [P, K, d] of one prompt -> [1, K, L, d]."""
    return x[first:last].transpose(0, 1)[None]


def _laid_out(x: Tensor, documents: Documents, empty: float | None = None) -> list[Tensor]:
    """x [K, R, ...] -> [K, b, l, ...] for each group of continuations of like length. A padding slot holds `empty`; the
    first token's when None."""
    if documents.mask is None:
        return [x.contiguous().unflatten(1, tuple(documents.pad.shape))]
    groups = documents.groups
    pad, shapes = (documents.pad.flatten(), (documents.pad.shape,)) if groups is None else (groups.pad, groups.shapes)
    if empty is None:
        laid = x.index_select(1, pad)
    else:
        laid = x.new_full((len(x), len(pad), *x.shape[2:]), empty).index_copy_(1, _slots(documents), x)
    parts = laid.split([count * longest for count, longest in shapes], dim=1)
    return [part.contiguous().unflatten(1, tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]


def _from_groups(parts: list[Tensor], documents: Documents) -> Tensor:
    """The way back: [K, b, l, ...] of each group -> [K, R, ...]."""
    laid = torch.cat([part.flatten(1, 2) for part in parts], dim=1)
    return laid if documents.mask is None else laid.index_select(1, _slots(documents))


def _slots(documents: Documents) -> Tensor:
    """Long [R]: the slot of each token in what `_laid_out` gives."""
    return documents.unpad if documents.groups is None else documents.groups.unpad
