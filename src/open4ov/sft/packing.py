"""Image-aware packing (paper §3): whole samples laid end to end in packs of at most `pack_tokens` tokens.

A sample is never cut, so an image is never parted from its question, and there is no padding: documents of a pack
attend only to themselves (the model's `cu_seqlens`). A sample longer than a pack is listed, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Packing:
    """`packs[i]`: indices of the samples of pack i, in their order; `too_long`: indices that fit in no pack."""

    packs: list[list[int]]
    too_long: list[int]
    tokens: int
    pack_tokens: int

    @property
    def fill(self) -> float:
        """Share of the packs' room that holds tokens; 1.0 when there is no pack."""
        return self.tokens / (len(self.packs) * self.pack_tokens) if self.packs else 1.0


def plan(lengths: Sequence[int], pack_tokens: int, window: int = 8) -> Packing:
    """First fit in order: each sample goes into the oldest of the last `window` packs that still has room for it.

    lengths: tokens of each sample, image tokens included. Packs keep the order of the samples to within `window`
    packs, so that a difficulty order survives packing. A pure function of its arguments.
    Raises ValueError for an empty sample, or a pack or window of less than one.
    """
    if pack_tokens < 1 or window < 1:
        raise ValueError(f"packing needs pack_tokens >= 1 and window >= 1, got {pack_tokens} and {window}")
    packs: list[list[int]] = []
    room: list[int] = []
    too_long: list[int] = []
    for index, length in enumerate(lengths):
        if length < 1:
            raise ValueError(f"sample {index} has no tokens to pack")
        if length > pack_tokens:
            too_long.append(index)
            continue
        first = max(0, len(packs) - window)
        fitting = next((i for i in range(first, len(packs)) if room[i] >= length), None)
        if fitting is None:
            fitting = len(packs)
            packs.append([])
            room.append(pack_tokens)
        packs[fitting].append(index)
        room[fitting] -= length
    return Packing(packs, too_long, sum(pack_tokens - left for left in room), pack_tokens)
