"""Context parallel by Ulysses: ranks of `cp` have other tokens of a pack; for attention they exchange these for heads.

Before attention a rank has all heads of its tokens, in it all tokens for its share of the heads, and after it its own
tokens again: two exchanges of queries and results, two of keys and values. Attention itself is whatever computes whole
packs: any kernel, packs with shared beginnings, or a trainer's `Memory`. Where there are fewer key-value heads than
ranks, several ranks have the same one.

Shapes: T tokens of the pack, C of the chunk, S of the shard, H heads and K key-value heads on this rank of `tp`, d head
dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from open4ov.model import Memory, attention
from open4ov.model.text import Laid

from .collectives import all_to_all


@dataclass(frozen=True)
class Chunk:
    """A pack's tokens as one rank of `cp` has them (model.text.Lying); `whole` is how all of them lie."""

    whole: Laid
    tokens: int
    """T; more are tokens that fill up"""
    group: ProcessGroup | None
    times: Tensor
    """Float [S]: in how many documents each token of the shard stands, 0 for those that fill up"""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
        """q [C, H, d], k and v [C, K, d] -> [C, H * d]."""
        whole = self.whole
        if isinstance(whole, attention.Documents):
            return exchanged(
                lambda q, k, v: attention.attend(q, k, v, whole, causal=True, kernel=kernel),
                q,
                k,
                v,
                self.tokens,
                self.group,
            )
        return exchanged(lambda q, k, v: whole.attend(q, k, v, kernel), q, k, v, self.tokens, self.group)


@dataclass(frozen=True)
class ChunkMemory:
    """A `Memory` of whole packs, for ranks that have chunks."""

    memory: Memory
    tokens: int
    group: ProcessGroup | None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [C, H, d], k and v [C, K, d] -> [C, H * d]."""
        return exchanged(lambda q, k, v: self.memory.attend(layer, q, k, v), q, k, v, self.tokens, self.group)


def exchanged(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tokens: int,
    group: ProcessGroup | None,
) -> Tensor:
    """`attend` on all T tokens and this rank's share of the heads. q [C, H, d], k and v [C, K, d] -> [C, H * d]."""
    ranks = 1 if group is None else group.size()
    if k.shape[1] % ranks:  # Mesh.of has seen to it that one divides the other
        k, v = (x.repeat_interleave(ranks // k.shape[1], dim=1) for x in (k, v))
    q, k, v = (all_to_all(x, group, cut=1, join=0) for x in (q, k, v))
    seen = attend(q[:tokens], k[:tokens], v[:tokens])
    seen = F.pad(seen, (0, 0, 0, len(q) - tokens)).view(len(q), -1, q.shape[2])
    return all_to_all(seen, group, cut=0, join=1).flatten(1)
