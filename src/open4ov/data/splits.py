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


def assign(keys: Sequence[Sequence[str]], shares: Mapping[str, float], seed: int) -> list[Split]:
    """A side for each sample, given the names of all groups it belongs to (at least one).

    Groups that a sample joins go together, under the name of theirs that comes first in the alphabet: that a later
    sample joins two groups may move one of them, and nothing else does.
    """
    leader: dict[str, str] = {}

    def root(name: str) -> str:
        leader.setdefault(name, name)
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for names in keys:
        if not names:
            raise ValueError("a sample without a group; give it one of its own")
        first = root(names[0])
        for name in names[1:]:
            a, b = sorted((first, root(name)))
            leader[b] = first = a
    return [side(root(names[0]), shares, seed) for names in keys]


def figures(sides: Sequence[Split], shares: Mapping[str, float]) -> dict[str, Any]:
    """Counts, shares reached, and how far each is from what was asked (in parts of 1)."""
    counts = Counter(sides)
    held_out: dict[Split, float] = {"val": shares.get("val", 0.0), "test": shares.get("test", 0.0)}
    asked: dict[Split, float] = {"train": 1 - sum(held_out.values()), **held_out}
    reached = {split: counts[split] / len(sides) if sides else 0.0 for split in asked}
    return {
        "samples": {split: counts[split] for split in asked},
        "asked": asked,
        "deviation": {split: round(reached[split] - asked[split], 6) for split in asked},
    }
