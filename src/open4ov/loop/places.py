"""The places of the topic tree among which a round's question-answer pairs are shared out.

A place joins a domain with an ability, at one of four levels. The more development questions there are, the finer the
level: few questions about a place say next to nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, get_args

from open4ov.admission import failing

Level = Literal["topic", "l2", "ability_l1", "l1"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""From fine to coarse: topics under a domain L2; a domain L2 and an ability L2; a domain L2 and an ability L1; L1s"""
ENOUGH = 8
"""Development questions for each place, in the mean, from which on a level is fine enough"""


class Place(NamedTuple):
    """Label names as a feedback file has them: "L1" or "L1 ~ L2"; `topic`: a topic's path, which has its ability."""

    domain: str
    ability: str | None
    topic: str | None

    @property
    def title(self) -> str:
        return " × ".join(part for part in self if part)


def of(where: failing.Place, level: Level) -> Place | None:
    """The place of a sample at a level; None for one that lacks the labels."""
    domain, ability, topic, _ = where
    if not domain or not ability or (level == "topic" and not topic):
        return None
    if level == "topic":
        return Place(domain, None, topic)
    if level == "l2":
        return Place(domain, ability, None)
    return Place(domain if level == "ability_l1" else _l1(domain), _l1(ability), None)


def finest(taught: Collection[failing.Place], questions: int) -> Level:
    """The finest level whose places, among those of the samples, have `ENOUGH` questions each in the mean; the coarsest
    where none has."""
    for level in LEVELS:
        count = len({place for one in taught if (place := of(one, level))})
        if count and questions >= ENOUGH * count:
            return level
    return LEVELS[-1]


def _l1(name: str) -> str:
    return name.partition(" ~ ")[0]


def even(parts: Sequence[float], digits: int = 6) -> list[float]:
    """Shares in proportion to the parts, rounded so that they sum to 1 exactly (the largest remainders go up)."""
    whole, unit = sum(parts), 10**digits
    exact = [part / whole * unit for part in parts]
    floors = [int(value) for value in exact]
    order = sorted(range(len(parts)), key=lambda i: (floors[i] - exact[i], i))
    for i in order[: unit - sum(floors)]:
        floors[i] += 1
    return [value / unit for value in floors]
