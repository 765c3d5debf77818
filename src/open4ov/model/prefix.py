"""Attention of packs in which documents begin alike: the common beginning is there once, as part of one of them.

First come whole documents, the trunk; then, prefix after prefix, what other documents have of their own. Those look at
the prefix's keys and values and, causally, at themselves: the same as if each of them had been laid out whole.

Shapes: T tokens of the pack, S of its trunk, L of a prefix, R of all documents that go on from it, H heads, K key-value
heads, d head dim.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from . import attention
from .attention import Documents


class Prefix(NamedTuple):
    """A beginning of several documents: the tokens `start` .. `start + tokens - 1` of the pack, in one that is whole,
    and how many tokens of their own the others have, which lie at the pack's end."""

    start: int
    tokens: int
    own: tuple[int, ...]


class Shared(NamedTuple):
    """How such a pack is laid out, worked out once for all layers."""

    trunk: Documents
    prefixes: tuple[Prefix, ...]
    sizes: tuple[int, ...]
    """The pack in pieces: prefixes, what lies between them, and the own tokens of each prefix's documents [R]"""
    places: tuple[tuple[int, int], ...]
    """Of each prefix the pieces that hold it and its documents' own tokens"""
    masks: tuple[Tensor, ...]
    """Of each prefix Bool [1, 1, R, L + R]: True where its documents' tokens look"""
    times: Tensor
    """Float [T]: in how many documents each token stands"""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
        """See `attend` below."""
        seen: Tensor = attend(q, k, v, self, kernel)  # pyright: ignore[reportCallIssue, reportAssignmentType]
        return seen

    @staticmethod
    def of(cu_seqlens: Tensor, prefixes: tuple[Prefix, ...]) -> Shared:
        """cu_seqlens: borders of all documents, of those that go on from a prefix with their own tokens only."""
        device, total = cu_seqlens.device, int(cu_seqlens[-1])
        whole = len(cu_seqlens) - sum(len(prefix.own) for prefix in prefixes)
        trunk = cu_seqlens[:whole]
        ends = list(accumulate((sum(prefix.own) for prefix in prefixes), initial=int(trunk[-1])))
        cuts = sorted({0, *ends, *(cut for p in prefixes for cut in (p.start, p.start + p.tokens))})
        assert cuts[-1] == total, "the own tokens of all prefixes end the pack"
        times = torch.ones(total, device=device)
        masks: list[Tensor] = []
        for prefix in prefixes:
            times[prefix.start : prefix.start + prefix.tokens] += len(prefix.own)
            lengths = torch.tensor(prefix.own, device=device)
            owner = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
            own = (owner[:, None] == owner).tril()
            masks.append(torch.cat([own.new_ones(len(own), prefix.tokens), own], dim=1)[None, None])
        return Shared(
            Documents.of(trunk),
            prefixes,
            tuple(b - a for a, b in pairwise(cuts)),
            tuple((cuts.index(p.start), cuts.index(end)) for p, end in zip(prefixes, ends, strict=False)),
            tuple(masks),
            times,
        )


@torch.compiler.disable  # prefixes differ in number from pack to pack: each number would be compiled anew
def attend(q: Tensor, k: Tensor, v: Tensor, shared: Shared, kernel: str = "auto") -> Tensor:
    """Causal attention inside each document, what it shares included. q [T, H, d], k and v [T, K, d] -> [T, H * d]."""
    first = len(shared.trunk.unpad)
    trunk, *queries = q.split((first, *(sum(prefix.own) for prefix in shared.prefixes)))
    out = [attention.attend(trunk, k[:first], v[:first], shared.trunk, causal=True, kernel=kernel)]
    keys, values = k.split(shared.sizes), v.split(shared.sizes)
    for own, (prefix, after), mask in zip(queries, shared.places, shared.masks, strict=True):
        own_k, own_v = (torch.cat([part[prefix], part[after]]).transpose(0, 1)[None] for part in (keys, values))
        tokens, heads, size = own.shape
        groups = heads // k.shape[1]  # the queries of a key-value head as rows of one head: kernels take a mask then
        rows = own.view(tokens, -1, groups, size).permute(1, 2, 0, 3).reshape(1, -1, groups * tokens, size)
        seen = attention.attend_rows(rows, own_k, own_v, mask=mask.repeat(1, 1, groups, 1))
        out.append(seen.view(-1, groups, tokens, size).permute(2, 0, 1, 3).reshape(tokens, -1))
    return torch.cat(out)
