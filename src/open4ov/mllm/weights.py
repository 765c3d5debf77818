"""How many turns topics and kinds of question have in what is written about an image, where some are wished more of.

The weights of an image are a list of {"topics": paths, "task": a task or question type or None, "factor": number}:
what `open4ov.data.wishes` makes of a feedback file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST = 16.0
"""Several wishes for one thing multiply up to this factor, and down to its inverse"""


def weigh(weights: Sequence[Mapping[str, Any]], topic: str, task: str | None = None) -> float:
    """The factor of a topic (by its path), or of a task under it; 1 where nothing is wished."""
    found = 1.0
    for one in weights:
        if topic in one["topics"] and one["task"] in (None, task):
            found *= one["factor"]
    return bounded(found)


def bounded(factor: float) -> float:
    """A product of factors within `MOST`."""
    return min(MOST, max(1 / MOST, factor))


def turn(weight: float, had: int, place: int, among: int) -> float:
    """When the next turn of one of `among` comes, who is at `place` of their order and has had so many: the least comes
    first. Of equal weights each has one turn after the other, in their order. Else each has turns in proportion to its
    weight, to within one; over many orders exactly so, however few turns there are (stride scheduling; beginning with
    the heaviest instead would give short rounds to the heavy ones alone)."""
    return (had + (place + 0.5) / among) / weight
