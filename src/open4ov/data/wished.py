"""A feedback file over all chunks: budgets that lean, which images get another topic, and what came of each wish."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from open4ov.data import density
from open4ov.data.synthesize import NOT_AGAIN
from open4ov.data.wishes import Other, Wishes
from open4ov.data.working import Work
from open4ov.recipe import DataSection

Others = list[tuple[int, int, float]]
"""Of a chunk: (image, number of a topic, score), for topics that take the place of an image's last one"""


class Wished:
    """Held of all images: the lean of each (8 bytes). `added`: topics that were wished by name and not found."""

    def __init__(self, wishes: Wishes, section: DataSection, work: Work) -> None:
        self._wishes, self._section, self._work = wishes, section, work
        self._before: list[float] = []
        self._replaced: list[int] = []
        self.added = 0

    def share(
        self, ids: Sequence[float], sizes: Sequence[int], plain: list[int] | None
    ) -> tuple[list[int], list[Others]]:
        """Budgets of all images, and by chunk the topics that replace others. `ids`: the images' scores; `sizes`: how
        many images each chunk has, whose step `fine` is done; `plain`: budgets without the file, where there is a
        total."""
        wishes, least, most = self._wishes, self._section.min_pairs, self._section.max_pairs
        without = plain or [density.budget(one, least, most) for one in ids]
        before = np.zeros(len(wishes.rules))
        leans = array("d")
        possible: list[Other] = []
        for facts in self._work.every("fine", len(sizes)):
            first = len(leans)
            leans.extend(facts["lean"])
            possible += [Other(wish, first + at, topic, score) for wish, at, topic, score in facts["others"]]
            if facts["shares"]:
                before += np.array(without[first : len(leans)]) @ np.array(facts["shares"])
        self._before = before.tolist()
        self._replaced = [0] * len(wishes.rules)
        others: list[Others] = [[] for _ in sizes]
        ends = np.cumsum(sizes)
        for one in wishes.replacing(possible, self._before):
            number = int(np.searchsorted(ends, one.image, side="right"))
            others[number].append((one.image - int(ends[number]) + sizes[number], one.topic, one.score))
            self._replaced[one.wish] += 1
        pairs = list(zip(ids, leans, strict=True))
        if plain is None:
            return [density.leaning(score, least, most, lean) for score, lean in pairs], others
        return density.allocate([score * lean for score, lean in pairs], least, most, sum(plain)), others

    def figures(self, chunks: int, judged: int, dropped: Mapping[str, int]) -> dict[str, Any]:
        """The part `feedback` of the report: what was asked of each wish and what came of it."""
        counts: dict[str, Sequence[float]] = {"before": self._before, "replaced": self._replaced}
        steps = (("images", "fine", "images", chunks), ("made", "write", "wished", chunks),
                 ("kept", "judge", "wished", judged))  # fmt: skip
        for name, step, key, count in steps:
            rows = [facts[key] for facts in self._work.every(step, count) if facts[key]]
            counts[name] = [sum(column) for column in zip(*rows, strict=True)] or [0] * len(self._wishes.rules)
        return self._wishes.figures(counts, dropped.get(NOT_AGAIN, 0), self.added)
