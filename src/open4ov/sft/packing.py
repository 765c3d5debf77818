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


def plan(
    lengths: Sequence[int],
    pack_tokens: int,
    window: int = 16,
    alike: Sequence[str | None] | None = None,
    names: Sequence[str] | None = None,
) -> Packing:
    """Best fit in order: each sample goes into that one of the `window` open packs which it leaves the least room in.
    When it fits in none it opens a new pack, for which the oldest open one is closed.

    alike: of each sample what it begins with (None: nothing that could be shared). A sample takes those of the
    following ones that begin alike with it, as many as fit into a pack together; of those with the same of the `names`
    only the first, since an update learns little from the same sample again. None is packed earlier by that than the
    window allows: into a pack that would be open if those before it had just filled theirs.

    lengths: tokens of each sample, image tokens included, and what it may share too: a pack holds as many samples
    whether they share anything or not. Packs come in the order of their first samples, so that a difficulty order
    survives packing to within the `window` packs. A pure function of its arguments; N samples take N log(window)
    steps, or N window with `alike`. Raises ValueError for an empty sample, or a pack or window of less than one.
    """
    if pack_tokens < 1 or window < 1:
        raise ValueError(f"packing needs pack_tokens >= 1 and window >= 1, got {pack_tokens} and {window}")
    if (empty := next((index for index, length in enumerate(lengths) if length < 1), None)) is not None:
        raise ValueError(f"sample {empty} has no tokens to pack")
    packs: list[list[int]] = []
    rooms: list[int] = []
    opened: list[tuple[int, int]] = []  # room and number of the open packs, in order
    families = _Families(lengths, pack_tokens, window, alike, names)
    for index, length in enumerate(lengths):
        if length > pack_tokens or index in families.placed:
            continue
        members, size, reach = families.of(index)
        first = len(packs) - window + reach
        number = next((n for _, n in opened[bisect_left(opened, (size, 0)) :] if n >= first), len(packs))
        if number == len(packs):
            packs.append([])
            rooms.append(pack_tokens)
            oldest = number - window
            if oldest >= 0 and rooms[oldest]:  # a full pack has left the open ones already
                opened.pop(bisect_left(opened, (rooms[oldest], oldest)))
        else:
            opened.pop(bisect_left(opened, (rooms[number], number)))
        packs[number] += members
        rooms[number] -= size
        if rooms[number]:
            insort(opened, (rooms[number], number))
    too_long = [index for index, length in enumerate(lengths) if length > pack_tokens]
    return Packing([sorted(pack) for pack in packs], too_long, sum(pack_tokens - room for room in rooms), pack_tokens)


class _Families:
    """Samples that begin alike. `placed`: those that were taken along, and need no place any more."""

    def __init__(
        self,
        lengths: Sequence[int],
        pack_tokens: int,
        window: int,
        alike: Sequence[str | None] | None,
        names: Sequence[str] | None,
    ) -> None:
        self.placed: set[int] = set()
        self._lengths, self._tokens, self._window = lengths, pack_tokens, window
        self._alike, self._names = alike, names
        self._before: list[int] = []  # tokens before each sample
        self._of: dict[str, list[int]] = {}
        total = 0
        for index, (length, key) in enumerate(zip(lengths, alike or (), strict=False)):
            self._before.append(total)
            if length <= pack_tokens:
                total += length
                if key is not None:
                    self._of.setdefault(key, []).append(index)

    def of(self, index: int) -> tuple[list[int], int, int]:
        """The sample and those that it takes along, their tokens, and how many packs later the last one stands."""
        members, size, reach = [index], self._lengths[index], 0
        key = self._alike[index] if self._alike else None
        family = self._of[key] if key is not None else []
        taken = {self._names[index]} if self._names else set[str]()
        for place in range(bisect_left(family, index + 1), len(family)):
            other = family[place]
            apart = -(-(self._before[other] - self._before[index]) // self._tokens)
            if apart >= self._window:
                break
            name = self._names[other] if self._names else ""
            if other not in self.placed and name not in taken and size + self._lengths[other] <= self._tokens:
                members.append(other)
                size, reach = size + self._lengths[other], apart
                taken.update([name] if name else [])
        self.placed.update(members[1:])
        return members, size, reach
