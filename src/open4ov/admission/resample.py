"""Resampling by mastery (paper §3.2.2): "we increase resampling for partially mastered and unmastered data while
downsampling proficiently mastered data".

A sample's weight is what its level's weight comes to over all that is known of its pass rate: one with four right of
four is mastered with a probability of two thirds only, and is drawn accordingly.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import cast, get_args

from open4ov.recipe_mastery import MasteryWeights
from open4ov.sample import Mastery, Sample

LEVELS: tuple[Mastery, ...] = get_args(Mastery)


def weight(sample: Sample, weights: MasteryWeights) -> float:
    """The expectation of the levels' weights over the grade's probabilities (`extra["grade"]`); the level's own weight
    for a sample that has a level only."""
    if sample.mastery is None:
        return weights.ungraded
    grade = sample.extra.get("grade")
    if not isinstance(grade, dict):
        return getattr(weights, sample.mastery)
    known = cast("dict[str, float]", grade)
    shares = [known.get(level, 0.0) for level in LEVELS]
    total = math.fsum(shares)  # of rounded figures
    if not total > 0:
        return getattr(weights, sample.mastery)
    return math.fsum(share * getattr(weights, level) for share, level in zip(shares, LEVELS, strict=True)) / total


def resample(
    samples: Sequence[Sample], weights: MasteryWeights, count: int | None = None, seed: int | str = 0
) -> list[Sample]:
    """Samples drawn by weight, in the order given, each as often as it was drawn, copies one after the other.

    count: how many; each is then expected `count * weight / sum of weights` times. None: a weight is the expected
    number of copies, so that with the default weights nothing is repeated. By systematic resampling: a sample is drawn
    its expected number of times, rounded down or up, and the rounding is right on average. Neither the order of the
    samples nor what is beside them decides more than that rounding. Another `seed` for each iteration draws other ones.

    Raises ValueError for a negative count, and when all samples there are weigh nothing.
    """
    if count is not None and count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    if not samples or count == 0:
        return []
    drawn = [weight(sample, weights) for sample in samples]
    total = math.fsum(drawn)
    if not total > 0:
        raise ValueError("the weights of all these samples are zero: nothing can be drawn")
    order = sorted(range(len(samples)), key=lambda i: (_place(samples[i].id, seed), i))
    expected = [drawn[i] if count is None else drawn[i] / total * count for i in order]
    copies = systematic(expected, random.Random(f"resample {seed}").random(), count)
    times = dict(zip(order, copies, strict=True))
    return [sample for i, sample in enumerate(samples) for _ in range(times[i])]


def systematic(expected: Sequence[float], start: float, total: int | None = None) -> list[int]:
    """Whole numbers, each the floor or the ceiling of its expected one, which is their mean over `start` in [0, 1).

    total: what they sum to, when the expected ones do so up to rounding errors; else the sum's floor or ceiling.
    """
    copies: list[int] = []
    before, reached, lost = 0, 0.0, 0.0
    for place, number in enumerate(expected):
        number -= lost  # Kahan's sum: a million small numbers add up to what they should
        after = reached + number
        lost, reached = (after - reached) - number, after
        mark = math.floor(reached + start)
        if total is not None:
            mark = total if place == len(expected) - 1 else min(mark, total)
        copies.append(mark - before)
        before = mark
    return copies


def _place(name: str, seed: int | str) -> bytes:
    """Where a sample stands while it is drawn: neighbours in a file, which are often alike, are far from one
    another."""
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()
