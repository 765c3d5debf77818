"""The paired tests against enumeration and maximisation by hand: nothing here is computed by the code under test."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.admission import paired
from open4ov.admission.paired import Pairs, above, below, compare, interval, power, questions


def outcomes(n: int, discordant: float, difference: float) -> Iterator[tuple[int, int, float]]:
    """Every (gained, lost) of n questions and its trinomial probability."""
    p, q = (discordant + difference) / 2, (discordant - difference) / 2
    for b in range(n + 1):
        for c in range(n + 1 - b):
            ways = math.factorial(n) // (math.factorial(b) * math.factorial(c) * math.factorial(n - b - c))
            yield b, c, ways * p**b * q**c * (1 - p - q) ** (n - b - c)


def test_counts_are_of_the_questions_answered_differently() -> None:
    pairs = compare([True, True, False, False, False], [True, False, True, True, False])
    assert pairs == Pairs(5, gained=2, lost=1)
    assert pairs.difference == pytest.approx(0.2)
    assert pairs.discordant == pytest.approx(0.6)
    with pytest.raises(ValueError, match="cannot be"):
        Pairs(3, 2, 2)
    with pytest.raises(ValueError, match="shorter"):
        compare([True], [])


def test_without_a_threshold_it_is_mcnemars_exact_test() -> None:
    assert above(Pairs(50, 10, 2), 0) == pytest.approx((66 + 12 + 1) / 4096)  # 10 heads or more of 12
    assert below(Pairs(50, 10, 2), 0) == pytest.approx((4096 - 12 - 1) / 4096)
    assert above(Pairs(50, 0, 0), 0) == 1.0


def by_hand(gained: int, lost: int, n: int, threshold: float) -> float:
    """The score, with the likeliest share of lost ones under the threshold found by trying them all."""

    def likelihood(q: float) -> float:
        p, same = q + threshold, n - gained - lost
        return gained * math.log(p) + lost * math.log(q) + same * math.log(1 - p - q)

    low, high = max(0.0, -threshold), (1 - threshold) / 2
    q = max((low + (high - low) * step / 100_000 for step in range(1, 100_000)), key=likelihood)
    return (gained - lost - n * threshold) / math.sqrt(n * (2 * q + threshold - threshold**2))


@pytest.mark.parametrize(("gained", "lost", "threshold"), [(12, 2, 0.05), (3, 9, -0.1), (5, 5, 0.2)])
def test_the_score_is_that_of_the_likeliest_shares_under_the_threshold(
    gained: int, lost: int, threshold: float
) -> None:
    found = paired._score(*(np.array([[float(x)]]) for x in (gained, lost)), 50, threshold)
    assert float(found[0, 0]) == pytest.approx(by_hand(gained, lost, 50, threshold), abs=2e-3)


def test_the_interval_ends_where_the_score_is_two_sided_significant() -> None:
    low, high = interval(Pairs(50, 12, 2), 0.95)
    assert low < 0.2 < high
    assert by_hand(12, 2, 50, low) == pytest.approx(1.96, abs=2e-3)
    assert by_hand(12, 2, 50, high) == pytest.approx(-1.96, abs=2e-3)


@pytest.mark.parametrize("threshold", [-0.2, 0.0, 0.15])
@pytest.mark.parametrize("level", [0.05, 0.2])
def test_a_claim_that_is_not_true_is_made_no_more_often_than_the_level(threshold: float, level: float) -> None:
    """Exact, not simulated: over all outcomes of 11 questions, at and below the threshold, for many shares."""
    n = 11
    claimed = {(b, c) for b, c, _ in outcomes(n, 0.5, 0.0) if above(Pairs(n, b, c), threshold) <= level}
    assert claimed  # else the test would say nothing
    for discordant in (0.0, 0.1, 0.2, 0.33, 0.5, 0.77, 1.0):
        for difference in (threshold, threshold - 0.05, threshold - 0.2):
            if abs(difference) <= discordant:
                chance = sum(p for b, c, p in outcomes(n, discordant, difference) if (b, c) in claimed)
                assert chance <= level + 1e-4, (discordant, difference)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.sampled_from([-0.1, 0.05, 0.2]))
def test_more_gained_or_fewer_lost_is_never_less_convincing(gained: int, lost: int, threshold: float) -> None:
    here = above(Pairs(14, gained, lost), threshold)
    assert above(Pairs(14, gained + 1, lost), threshold) <= here + 1e-9
    if lost:
        assert above(Pairs(14, gained, lost - 1), threshold) <= here + 1e-9


@pytest.mark.parametrize(
    ("n", "threshold", "discordant", "difference"), [(60, -0.1, 0.15, 0.0), (40, 0.05, 0.4, 0.3), (60, 0.0, 0.25, 0.15)]
)
def test_power_is_about_what_the_exact_test_has(n: int, threshold: float, discordant: float, difference: float) -> None:
    likely: dict[int, list[int]] = {b: [] for b in range(n + 1)}
    for b, c, p in outcomes(n, discordant, difference):
        likely[b] += [c] if p > 1e-5 else []
    edge: dict[int, int] = {}  # gained -> the most lost ones with which the claim is made
    for gained, lost in likely.items():
        made = -1
        while lost and made + 1 <= max(lost) and above(Pairs(n, gained, made + 1), threshold) <= 0.05:
            made += 1
        edge[gained] = made
    chance = sum(p for b, c, p in outcomes(n, discordant, difference) if c <= edge[b])
    assert power(n, threshold, discordant, difference, 0.05) == pytest.approx(chance, abs=0.08)


def test_the_power_at_the_threshold_itself_is_the_level() -> None:
    assert power(200, 0.05, 0.2, 0.05, 0.05) == pytest.approx(0.05, abs=0.005)
    assert power(200, -0.05, 0.2, -0.05, 0.1) == pytest.approx(0.1, abs=0.005)


def test_the_number_of_questions_is_the_smallest_that_has_the_power() -> None:
    needed = questions(-0.05, 0.15, 0.0, 0.05, 0.8)
    assert needed is not None
    assert power(needed, -0.05, 0.15, 0.0, 0.05) >= 0.8 > power(needed - 1, -0.05, 0.15, 0.0, 0.05)
    assert 300 < needed < 450  # (z.95 + z.80)² · 0.15 / 0.05² = 371, by the usual formula
    assert questions(0.1, 0.3, 0.1, 0.05, 0.8) is None  # a true difference at the threshold is never shown
    with pytest.raises(ValueError, match="discordant"):
        power(100, 0.0, 0.1, 0.2, 0.05)
    with pytest.raises(ValueError, match="between -1 and 1"):
        above(Pairs(10, 1, 1), 1.0)


def test_many_questions_take_the_normal_approximation_and_agree_with_the_exact_one() -> None:
    n = paired.EXACT
    exact, rough = above(Pairs(n, 200, 290), -0.05), above(Pairs(n + 1, 200, 290), -0.05)
    assert rough == pytest.approx(exact, rel=0.5)
    assert exact < 0.05
