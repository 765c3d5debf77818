"""How sure is a score whose items are not independent, and is one model better than another?

Several questions about one picture, or rotations of one question, stand or fall together: an interval that takes them
for independent is too narrow. Here clusters are drawn, not items (Miller 2024, "Adding Error Bars to Evals"; Field and
Welsh 2007 for the cluster bootstrap). A score is the mean of one or several parts' means (categories, or the three
accuracies of HallusionBench).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from open4ov.evaluate.metrics import Interval, wilson

RESAMPLES = 4000
EXACT_CLUSTERS = 12
"""Up to so many clusters all signs are tried: 2 to that power"""
PERMUTATIONS = 20_000


@dataclass(frozen=True)
class Value:
    """One item's score (or difference of two scores), in the cluster of that name."""

    value: float
    cluster: str


def interval(
    parts: Sequence[Sequence[Value]], confidence: float, seed: str, resamples: int = RESAMPLES, signed: bool = False
) -> Interval:
    """The mean of the parts' means, and the percentile interval of drawing clusters with replacement.

    A cluster may have items in several parts; it is drawn with all of them. Wilson's interval instead for one part of
    independent yes/no items; and, on as many items as there are clusters, where all scores are equal and a bootstrap
    would have no width. `signed`: the values are differences, for which there is no such interval. ValueError for an
    empty part.
    """
    if not parts or any(not part for part in parts):
        raise ValueError("a score needs at least one item in every part")
    mean = sum(sum(each.value for each in part) / len(part) for part in parts) / len(parts)
    values = {each.value for part in parts for each in part}
    clusters = {each.cluster for part in parts for each in part}
    yes_no = values <= {0.0, 1.0} and not signed
    if yes_no and len(parts) == 1 and len(clusters) == len(parts[0]):
        return wilson(round(sum(each.value for each in parts[0])), len(parts[0]), confidence)
    if yes_no and len(values) == 1:
        return wilson(len(clusters) if 1.0 in values else 0, len(clusters), confidence)
    sums, counts = _by_cluster(parts, sorted(clusters))
    draw = np.random.default_rng(random.Random(seed).getrandbits(64))
    means: list[float] = []
    for _ in range(resamples):
        weights = np.bincount(draw.integers(0, len(clusters), len(clusters)), minlength=len(clusters))
        drawn = weights @ counts
        if (drawn > 0).all():  # a small part may not be drawn at all
            means.append(float(np.mean((weights @ sums) / drawn)))
    low, high = np.quantile(means or [mean], [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def _by_cluster(parts: Sequence[Sequence[Value]], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each cluster in each part: two arrays [clusters, parts]."""
    place = {name: index for index, name in enumerate(names)}
    sums, counts = np.zeros((len(names), len(parts))), np.zeros((len(names), len(parts)))
    for column, part in enumerate(parts):
        for each in part:
            sums[place[each.cluster], column] += each.value
            counts[place[each.cluster], column] += 1
    return sums, counts


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact p of McNemar's test: items that only the one, and only the other got right."""
    tosses = won + lost
    if not tosses:
        return 1.0
    tail = sum(math.comb(tosses, k) for k in range(min(won, lost) + 1)) / 2**tosses
    return min(1.0, 2 * tail)


def sign_flip(parts: Sequence[Sequence[Value]], seed: str) -> float:
    """Two-sided p that the mean difference is no other than 0: signs of whole clusters are flipped (Fisher's
    randomisation). Exact up to `EXACT_CLUSTERS` clusters, else over `PERMUTATIONS` drawn ones."""
    names = sorted({each.cluster for part in parts for each in part})
    sums, _ = _by_cluster(parts, names)
    weights = np.array([len(part) for part in parts], dtype=np.float64)
    effects = (sums / weights).mean(axis=1)  # what each cluster adds to the score
    effects = effects[effects != 0]
    if not len(effects):
        return 1.0
    found = abs(float(effects.sum())) - 1e-12
    if len(effects) <= EXACT_CLUSTERS:
        sums = (
            sum(effect if number >> place & 1 else -effect for place, effect in enumerate(effects.tolist()))
            for number in range(2 ** len(effects))
        )
        return sum(abs(total) >= found for total in sums) / 2 ** len(effects)
    draw = np.random.default_rng(random.Random(seed).getrandbits(64))
    extreme = 0
    for _ in range(0, PERMUTATIONS, 1000):
        signs = 1 - 2 * draw.integers(0, 2, (1000, len(effects)))
        extreme += int((np.abs(signs @ effects) >= found).sum())
    return (extreme + 1) / (PERMUTATIONS + 1)


def paired(parts: Sequence[Sequence[Value]], seed: str) -> tuple[float, str]:
    """p of no difference, and the test: McNemar's for independent yes/no items of one part, else `sign_flip`."""
    values = [each for part in parts for each in part]
    single = len(parts) == 1 and len({each.cluster for each in values}) == len(values)
    if single and {each.value for each in values} <= {-1.0, 0.0, 1.0}:
        won = sum(each.value > 0 for each in values)
        return mcnemar(won, sum(each.value < 0 for each in values)), "McNemar, exact"
    return sign_flip(parts, seed), "sign flips of clusters"


def holm(chances: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p of each of several tests: below a level, the family's chance of one false finding is too."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(chances, key=lambda name: chances[name])):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in chances}
