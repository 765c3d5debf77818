"""Grouped splits: all samples of a patient, vehicle, document or near-duplicate picture lie on one side.

A group's side comes from a hash of its name and the seed, never from the other groups: when samples are added, those
that were there stay where they are. What that costs: shares are met on average, by the number of groups and not of
samples; `deviation` says how far off they are. Two groups that share a sample (a patient in two documents) are one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from open4ov.store import Seen

Split = Literal["train", "val", "test"]
SIDES: tuple[Split, ...] = ("test", "val", "train")


def side(name: str, shares: Mapping[str, float], seed: int) -> Split:
    """The side of a group: `shares` of val and test are of 1, the rest trains."""
    digest = hashlib.sha256(f"split/{seed}/{name}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    for split in SIDES:
        place -= shares.get(split, 0.0)
        if place < 0:
            return split
    return "train"


class Groups:
    """Which groups go together. `join` is told the groups of every sample before `side` is asked for any.

    Groups that a sample joins go together, under the name of theirs that comes first in the alphabet: that a later
    sample joins two groups may move one of them, and nothing else does. Held are the names of groups that were joined
    with others, and 8 bytes of every name.
    """

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        self._shares, self._seed = shares, seed
        self._leader: dict[str, str] = {}
        self._seen = Seen()
        self.count = 0
        """How many different names there are"""

    def join(self, names: Sequence[str]) -> None:
        if not names:
            raise ValueError("a sample without a group; give it one of its own")
        self.count += sum(self._seen.add(name) for name in names)
        if len(names) > 1:
            first = self._root(names[0])
            for name in names[1:]:
                a, b = sorted((first, self._root(name)))
                self._leader[b] = first = a

    def side(self, names: Sequence[str]) -> Split:
        """The side of a sample of these groups."""
        return side(self._root(names[0]) if names[0] in self._leader else names[0], self._shares, self._seed)

    def _root(self, name: str) -> str:
        leader = self._leader
        leader.setdefault(name, name)
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name


def assign(keys: Sequence[Sequence[str]], shares: Mapping[str, float], seed: int) -> list[Split]:
    """A side for each sample, given the names of all groups it belongs to (at least one)."""
    groups = Groups(shares, seed)
    for names in keys:
        groups.join(names)
    return [groups.side(names) for names in keys]


def figures(sides: Sequence[Split] | Mapping[Split, int], shares: Mapping[str, float]) -> dict[str, Any]:
    """Counts, shares reached, and how far each is from what was asked (in parts of 1). `sides`: of each sample, or how
    many samples are on which."""
    counts = Counter(sides)
    total = sum(counts.values())
    held_out: dict[Split, float] = {"val": shares.get("val", 0.0), "test": shares.get("test", 0.0)}
    asked: dict[Split, float] = {"train": 1 - sum(held_out.values()), **held_out}
    reached = {split: counts[split] / total if total else 0.0 for split in asked}
    return {
        "samples": {split: counts[split] for split in asked},
        "asked": asked,
        "deviation": {split: round(reached[split] - asked[split], 6) for split in asked},
    }
