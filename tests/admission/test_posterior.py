"""The incomplete beta function against exact sums and an integral, and beliefs against simulated topics."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.admission import posterior


def integral(a: float, b: float, x: float) -> float:
    """P(rate <= x) under Beta(a, b), a and b at least 1/2, by the midpoint rule over rate = sin(t) ** 2."""
    step = math.pi / 2 / 20_000
    t = np.arange(20_000) * step + step / 2
    density = np.sin(t) ** (2 * a - 1) * np.cos(t) ** (2 * b - 1)
    return float(density[np.sin(t) ** 2 <= x].sum() / density.sum())


@given(st.integers(1, 25), st.integers(0, 25), st.fractions(0, 1))
def test_the_incomplete_beta_function_is_the_binomial_tail(k: int, more: int, x: Fraction) -> None:
    n = k + more
    x = x.limit_denominator(1000)
    tail = sum(math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(k, n + 1))
    assert posterior.betainc(k, n - k + 1, float(x)) == pytest.approx(float(tail), abs=1e-10)


@pytest.mark.parametrize(("right", "of"), [(0, 1), (0, 4), (1, 4), (4, 4), (7, 8), (16, 16), (30, 200)])
def test_probabilities_of_the_levels_are_those_of_jeffreys_posterior(right: int, of: int) -> None:
    belief = posterior.own(right, of, 0.9, 0.1)
    a, b = right + 0.5, of - right + 0.5
    assert belief.unmastered == pytest.approx(integral(a, b, 0.1), abs=1e-3)
    assert belief.mastered == pytest.approx(1 - integral(a, b, 0.9), abs=1e-3)
    assert belief.mastered + belief.partial + belief.unmastered == pytest.approx(1)
    if 0 < right < of:
        assert integral(a, b, belief.low) == pytest.approx(0.025, abs=1e-3)
        assert integral(a, b, belief.high) == pytest.approx(0.975, abs=1e-3)
    assert belief.low == 0 if right == 0 else belief.high == 1 if right == of else True


def test_jeffreys_prior_alone_is_the_arcsine_law() -> None:
    for x in (0.01, 0.3, 0.5, 0.99):
        assert posterior.betainc(0.5, 0.5, x) == pytest.approx(2 / math.pi * math.asin(math.sqrt(x)), abs=1e-12)


@pytest.mark.parametrize("of", range(2, 10))
def test_of_few_rollouts_the_levels_are_all_none_and_the_rest(of: int) -> None:
    """And the level is then the likeliest of the three, too."""
    for right in range(of + 1):
        level = posterior.level(right / of, 0.9, 0.1)
        assert level == ("mastered" if right == of else "unmastered" if right == 0 else "partial")
        belief = posterior.own(right, of, 0.9, 0.1)
        assert belief.of(level) == max(belief.mastered, belief.partial, belief.unmastered)


def test_more_rollouts_are_surer() -> None:
    sure = [posterior.own(n, n, 0.9, 0.1).mastered for n in (1, 2, 4, 8, 16, 32)]
    assert sure == sorted(sure)
    assert sure[0] < 0.5 < sure[1]
    assert sure[-1] > 0.98


def test_a_topic_says_less_of_a_sample_than_its_own_rollouts() -> None:
    own, topic = posterior.own(4, 4, 0.9, 0.1), posterior.shared([(4, 4)], 0.9, 0.1)
    assert topic.mastered < own.mastered
    assert topic.low < own.low
    alike, unlike = posterior.shared([(4, 8)] * 12, 0.9, 0.1), posterior.shared([(8, 8), (0, 8)] * 6, 0.9, 0.1)
    assert alike.partial > 0.99
    assert unlike.partial < 0.4
    assert unlike.mastered == pytest.approx(unlike.unmastered, abs=1e-6)
    assert unlike.high - unlike.low > 2 * (alike.high - alike.low) > 0
    nothing = posterior.shared([], 0.9, 0.1)
    assert (nothing.low, nothing.high) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize("seen", [1, 3, 12])
def test_a_topics_interval_holds_another_samples_rate_as_often_as_it_says(seen: int) -> None:
    """Topics of all kinds: their samples' rates drawn from a Beta, of which `seen` are rolled out four times each."""
    rng = random.Random(seen)
    inside, promised, held = 0, 0.0, 0
    for _ in range(600):
        mean, spread = rng.uniform(0.02, 0.98), math.exp(rng.uniform(math.log(0.3), math.log(50)))
        draw = lambda: rng.betavariate(mean * spread, (1 - mean) * spread)  # noqa: B023, E731
        counts = [(sum(rng.random() < rate for _ in range(4)), 4) for rate in (draw() for _ in range(seen))]
        belief, other = posterior.shared(counts, 0.9, 0.1), draw()
        inside += belief.low <= other <= belief.high
        level = posterior.level(sum(r for r, _ in counts) / (4 * seen), 0.9, 0.1)
        promised += belief.of(level)
        held += posterior.level(other, 0.9, 0.1) == level
    assert inside / 600 > 0.91
    assert held / 600 == pytest.approx(promised / 600, abs=0.06)
