"""Student's t of a whole number of degrees of freedom, in closed form (Abramowitz and Stegun 26.7.3, 26.7.4)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def within(t: float, freedom: int) -> float:
    """Probability that |T| is at most `t` (>= 0)."""
    if freedom < 1:
        raise ValueError("Student's t needs at least one degree of freedom")
    if math.isinf(t):
        return 1.0
    angle = math.atan(t / math.sqrt(freedom))
    cos2 = math.cos(angle) ** 2
    if freedom % 2:
        total, term = 0.0, math.cos(angle)
        for place in range(1, freedom - 1, 2):  # cos + 2/3 cos³ + 2·4/(3·5) cos⁵ ...
            total += term
            term *= cos2 * (place + 1) / (place + 2)
        return min(1.0, 2 / math.pi * (angle + math.sin(angle) * total))
    total, term = 0.0, 1.0
    for place in range(0, freedom - 1, 2):  # 1 + 1/2 cos² + 1·3/(2·4) cos⁴ ...
        total += term
        term *= cos2 * (place + 1) / (place + 2)
    return min(1.0, math.sin(angle) * total)


def quantile(confidence: float, freedom: int) -> float:
    """The t within which T is with probability `confidence`."""
    low, high = 0.0, 1.0
    while within(high, freedom) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < confidence else (low, middle)
    return high


def interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Of the mean of independent values; without bounds for a single one. Raises ValueError for none."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return -math.inf, math.inf
    half = quantile(confidence, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def chance(values: Sequence[float], null: float = 0.0) -> float:
    """Two-sided p of the mean being no other than `null`; 1 for a single value."""
    if len(values) == 1:
        return 1.0
    away = abs(statistics.fmean(values) - null)
    error = statistics.stdev(values) / math.sqrt(len(values))
    if error == 0:
        return 0.0 if away > 0 else 1.0
    return 1 - within(away / error, len(values) - 1)
