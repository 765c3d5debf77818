"""What k right responses of n tell about a sample's pass rate, and about that of another sample of its topic.

Of a sample that was rolled out: the Beta posterior from Jeffreys' prior, Beta(k + 1/2, n - k + 1/2), and its
equal-tailed interval (closed at 0 for k = 0 and at 1 for k = n, as Brown, Cai and DasGupta 2001 have it). A Bayesian
posterior stays right whatever made one stop asking, so that more responses may be asked for where the first ones leave
doubt.

Of a sample that was not: its topic's pass rates are taken for draws from one Beta distribution, whose mean and
concentration are themselves uncertain: a beta-binomial model, its two parameters summed out over a grid. Few samples of
the topic, or samples that differ among themselves, give a wide interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from open4ov.sample import Mastery

Array = NDArray[np.float64]

_MEANS = 24
_CONCENTRATIONS = [0.5 * 2**i for i in range(8)]  # from "each sample all or nothing" to "all samples alike"
_RATES = 40
"""Points at which a mixture's distribution function is known, evenly in arcsin(sqrt(rate))"""


@dataclass(frozen=True)
class Belief:
    """Probabilities of the three levels, which sum to 1, and a 95 % interval of the pass rate."""

    mastered: float
    partial: float
    unmastered: float
    low: float
    high: float

    def of(self, level: Mastery) -> float:
        return getattr(self, level)


def level(rate: float, mastered_at: float, unmastered_at: float) -> Mastery:
    """mastered from `mastered_at` on, unmastered up to `unmastered_at`, partial in between (paper §3.2.2)."""
    return "mastered" if rate >= mastered_at else "unmastered" if rate <= unmastered_at else "partial"


@lru_cache(maxsize=65536)
def own(right: int, of: int, mastered_at: float, unmastered_at: float) -> Belief:
    """Of a sample with `right` right ones among `of` responses."""
    a, b = right + 0.5, of - right + 0.5
    low = 0.0 if right == 0 else _quantile(lambda x: betainc(a, b, x), 0.025)
    high = 1.0 if right == of else _quantile(lambda x: betainc(a, b, x), 0.975)
    below, above = betainc(a, b, unmastered_at), 1 - betainc(a, b, mastered_at)
    return Belief(above, max(0.0, 1 - above - below), below, low, high)


def shared(counts: Iterable[tuple[int, int]], mastered_at: float, unmastered_at: float) -> Belief:
    """Of a sample that was not rolled out, from the (right, of) of the others of its topic."""
    logs = np.log([math.sin(2 * math.asin(math.sqrt(a / (a + b)))) for a, b in _grid()])  # evenly over the means
    for (right, of), times in Counter(counts).items():
        logs += times * _log_likelihood(right, of)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    rates, table = _table()
    cdf = weights @ table

    def function(rate: float) -> float:
        return float(cast(float, np.interp(math.asin(math.sqrt(rate)), _arc(rates), cdf)))

    below, above = function(unmastered_at), 1 - function(mastered_at)
    # where many rates are next to 0 or 1, the interval is closed there: between two points nothing is known of them
    low = 0.0 if cdf[1] >= 0.025 else _quantile(function, 0.025)
    high = 1.0 if cdf[-2] <= 0.975 else _quantile(function, 0.975)
    return Belief(above, max(0.0, 1 - above - below), below, low, high)


def betainc(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b): P(rate <= x) under Beta(a, b).

    By its continued fraction (DLMF 8.17.22, Lentz's method), which converges fast for x below the mean.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - betainc(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    fraction, c, d = 1.0, 1.0, 0.0
    for step in range(1, 1000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        c, d = 1 + term / c, 1 / (1 + term * d)
        fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return math.exp(front) / fraction


def _quantile(distribution: Callable[[float], float], share: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(48):
        middle = (low + high) / 2
        low, high = (middle, high) if distribution(middle) < share else (low, middle)
    return (low + high) / 2


@cache
def _grid() -> list[tuple[float, float]]:
    """(a, b) of the Betas that a topic's pass rates may be drawn from: means, closer together towards 0 and 1, and
    concentrations a + b on a scale of doublings, equally likely before anything is seen."""
    means = [math.sin(math.pi / 2 * (i + 0.5) / _MEANS) ** 2 for i in range(_MEANS)]
    return [(mean * s, (1 - mean) * s) for mean in means for s in _CONCENTRATIONS]


@lru_cache(maxsize=4096)
def _log_likelihood(right: int, of: int) -> Array:
    """log P(right of `of`) under each Beta of the grid (beta-binomial, without its binomial coefficient)."""
    lgamma = math.lgamma
    return np.array(
        [
            lgamma(right + a) + lgamma(of - right + b) - lgamma(of + a + b) - lgamma(a) - lgamma(b) + lgamma(a + b)
            for a, b in _grid()
        ]
    )


@cache
def _table() -> tuple[Array, Array]:
    """Rates [R], and the distribution function of each Beta of the grid there [grid, R]."""
    rates = np.sin(np.pi / 2 * np.arange(_RATES + 1) / _RATES) ** 2
    rates[-1] = 1.0
    points: list[float] = rates.tolist()
    return rates, np.array([[betainc(a, b, x) for x in points] for a, b in _grid()])


def _arc(rates: Array) -> Array:
    return np.arcsin(np.sqrt(rates))
