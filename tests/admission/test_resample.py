"""Systematic resampling: exact on average, never off by more than the rounding."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.admission.mastery import resample
from open4ov.admission.resample import systematic, weight
from open4ov.recipe_mastery import MasteryWeights
from open4ov.sample import Mastery, Sample, assistant, user


def sample(name: str, mastery: Mastery | None, **grade: float) -> Sample:
    extra = {"grade": grade} if grade else {}
    messages = [user("q"), assistant("a")]
    return Sample(id=name, source="test", task="t", messages=messages, mastery=mastery, extra=extra)


def mixture(masteries: list[Mastery | None]) -> list[Sample]:
    return [sample(f"s{i}", mastery) for i, mastery in enumerate(masteries)]


LEVELS = st.sampled_from(["mastered", "partial", "unmastered", None])
WEIGHTS = st.builds(
    MasteryWeights,
    mastered=st.floats(0, 3),
    partial=st.floats(0.1, 3),
    unmastered=st.floats(0, 3),
    ungraded=st.floats(0, 3),
)


@settings(max_examples=50)
@given(st.lists(st.fractions(0, 3, max_denominator=20), min_size=1, max_size=9))
def test_on_average_over_the_start_each_is_drawn_as_often_as_expected(expected: list[Fraction]) -> None:
    """Exactly: the copies are constant between the starts at which a running sum passes a whole number."""
    sums = [sum(expected[: i + 1], Fraction(0)) for i in range(len(expected))]
    cuts = sorted({Fraction(0), Fraction(1), *(math.ceil(s) - s for s in sums)})
    mean = [Fraction(0)] * len(expected)
    for low, high in itertools.pairwise(cuts):
        copies = systematic([float(e) for e in expected], float((low + high) / 2))
        assert all(math.floor(e) <= c <= math.ceil(e) for e, c in zip(expected, copies, strict=True))
        mean = [m + (high - low) * c for m, c in zip(mean, copies, strict=True)]
    assert mean == expected


@settings(max_examples=60)
@given(st.lists(LEVELS, min_size=1, max_size=25), WEIGHTS, st.integers(0, 90), st.integers(0, 2**31))
def test_as_many_as_asked_for_each_within_one_of_its_share(
    masteries: list[Mastery | None], weights: MasteryWeights, count: int, seed: int
) -> None:
    samples = mixture(masteries)
    each = [weight(s, weights) for s in samples]
    if not sum(each):
        return
    drawn = resample(samples, weights, count, seed)
    assert len(drawn) == count
    assert drawn == resample(samples, weights, count, seed)
    times = Counter(s.id for s in drawn)
    for one, number in zip(samples, each, strict=True):
        share = count * number / sum(each)
        assert math.floor(share - 1e-6) <= times[one.id] <= math.ceil(share + 1e-6)
        assert times[one.id] == 0 or number > 0
    places = [samples.index(s) for s in drawn]
    assert places == sorted(places)


def test_without_a_count_the_weights_are_the_copies() -> None:
    samples = mixture(["mastered"] * 400 + ["partial"] * 100 + ["unmastered"] * 100 + [None] * 10)
    drawn = Counter(s.mastery for s in resample(samples, MasteryWeights(), seed=3))
    assert drawn == {"mastered": 100, "partial": 100, "unmastered": 100, None: 10}
    ids = [s.id for s in resample(samples, MasteryWeights(), seed=3)]
    assert len(ids) == len(set(ids))


def test_neither_order_nor_seed_change_more_than_they_must() -> None:
    samples = mixture(["mastered"] * 40 + ["partial"] * 10)
    once = {s.id for s in resample(samples, MasteryWeights(), seed=0)}
    assert once == {s.id for s in resample(samples[::-1], MasteryWeights(), seed=0)}
    others = [{s.id for s in resample(samples, MasteryWeights(), seed=seed)} for seed in range(40)]
    seen = Counter(name for one in others for name in one)
    assert all(seen[f"s{i}"] == 40 for i in range(40, 50))
    assert all(0 < seen[f"s{i}"] < 25 for i in range(40)), "a quarter of 40 draws, each sample in some of them"


def test_the_weight_is_the_expectation_over_what_is_known() -> None:
    weights = MasteryWeights(mastered=0.25, partial=1, unmastered=2)
    sure = sample("sure", "mastered", mastered=1.0, partial=0.0, unmastered=0.0)
    doubtful = sample("doubtful", "mastered", mastered=0.6, partial=0.3, unmastered=0.1)
    assert weight(sure, weights) == 0.25
    assert weight(doubtful, weights) == pytest.approx(0.6 * 0.25 + 0.3 * 1 + 0.1 * 2)
    assert weight(sample("old", "unmastered"), weights) == 2
    assert weight(sample("none", None), weights) == 1


def test_many_small_weights_add_up() -> None:
    copies = systematic([0.1] * 300_000, 0.37, 30_000)
    assert sum(copies) == 30_000
    assert set(copies) == {0, 1}
    gaps = [i for i, c in enumerate(copies) if c]
    assert {b - a for a, b in itertools.pairwise(gaps)} <= {9, 10, 11}


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="nothing can be drawn"):
        resample(mixture(["mastered"]), MasteryWeights(mastered=0), 3)
    with pytest.raises(ValueError, match="must not be negative"):
        resample(mixture(["mastered"]), MasteryWeights(), -1)
    assert resample([], MasteryWeights(), 5) == []
