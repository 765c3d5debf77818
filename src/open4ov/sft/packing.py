"""Image-aware packing (paper §3): whole samples laid end to end in packs of at most `pack_tokens` tokens.

A sample is never cut, so an image is never parted from its question, and there is no padding: documents of a pack
attend only to themselves (the model's `cu_seqlens`). A sample longer than a pack is listed, never dropped in silence.
"""

from __future__ import annotations

from bisect import bisect_left, insort
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


def plan(lengths: Sequence[int], pack_tokens: int, window: int = 16) -> Packing:
    """Best fit in order: each sample goes into that one of the `window` open packs which it leaves the least room in.
    When it fits in none it opens a new pack, for which the oldest open one is closed.

    lengths: tokens of each sample, image tokens included. Packs come in the order of their first samples, so that a
    difficulty order survives packing to within the `window` packs. A pure function of its arguments; N samples take
    N log(window) steps. Raises ValueError for an empty sample, or a pack or window of less than one.
    """
    if pack_tokens < 1 or window < 1:
        raise ValueError(f"packing needs pack_tokens >= 1 and window >= 1, got {pack_tokens} and {window}")
    packs: list[list[int]] = []
    rooms: list[int] = []
    opened: list[tuple[int, int]] = []  # room and number of the open packs, in order
    too_long: list[int] = []
    for index, length in enumerate(lengths):
        if length < 1:
            raise ValueError(f"sample {index} has no tokens to pack")
        if length > pack_tokens:
            too_long.append(index)
            continue
        place = bisect_left(opened, (length, 0))
        if place < len(opened):
            room, number = opened.pop(place)
        else:
            room, number = pack_tokens, len(packs)
            packs.append([])
            rooms.append(pack_tokens)
            oldest = number - window
            if oldest >= 0 and rooms[oldest]:  # a full pack has left the open ones already
                opened.pop(bisect_left(opened, (rooms[oldest], oldest)))
        packs[number].append(index)
        rooms[number] = room - length
        if rooms[number]:
            insort(opened, (rooms[number], number))
    return Packing(packs, too_long, sum(pack_tokens - room for room in rooms), pack_tokens)
