"""How evenly things lie in classes: entropy, Gini, chi-square against equal numbers (paper §3.2.2: "the distribution of
data volumes across different clusters helps evaluate whether optimal balance has been achieved")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def spread(counts: Sequence[float], effective: float | None = None) -> dict[str, Any]:
    """Figures of numbers in classes, empty ones among them.

    `entropy`: of the shares by its greatest value, 1 for equal numbers (1 for a single class); `effective`: the number
    of equal classes of the same entropy; `gini`: 0 for equal numbers; `max_min`: greatest by smallest, None where one
    is empty; `chi_square` against equal numbers, with `p` (None for fewer than two classes, or nothing in them).
    `effective`, given where samples occur several times, is how many independent ones they are worth: the test is
    scaled to it (Kish 1965), since copies are no evidence.
    """
    total, classes = float(sum(counts)), len(counts)
    found: dict[str, Any] = {"classes": classes, "total": round(total, 6)}
    if not total:
        return {
            **found,
            "entropy": None,
            "effective": None,
            "gini": None,
            "max_min": None,
            "chi_square": None,
            "p": None,
        }
    shares = [count / total for count in counts]
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    ordered = sorted(shares)
    gini = sum((2 * place - classes - 1) * share for place, share in enumerate(ordered, start=1)) / classes
    statistic = p = None
    if classes > 1:
        worth = total if effective is None else min(effective, total)
        statistic = worth * classes * sum((share - 1 / classes) ** 2 for share in shares)
        p = chi_square_p(statistic, classes - 1)
    return {
        **found,
        "entropy": round(entropy / math.log(classes), 6) if classes > 1 else 1.0,
        "effective": round(math.exp(entropy), 4),
        "gini": round(gini, 6),
        "max_min": round(ordered[-1] / ordered[0], 4) if ordered[0] > 0 else None,
        "chi_square": None if statistic is None else round(statistic, 4),
        "p": p,
    }


def worth(counts: Sequence[float]) -> float:
    """How many independent samples weighted ones are worth: (Σw)² / Σw² (Kish)."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / squares if squares else 0.0


def chi_square_p(statistic: float, freedom: int) -> float:
    """P(χ² ≥ statistic) with so many degrees of freedom: the regularised upper incomplete gamma function.

    By its series below its mean and by Lentz's continued fraction above (Abramowitz and Stegun 6.5.29, 6.5.31).
    """
    a, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while abs(term) > abs(total) * 1e-16:
            n += 1
            term *= x / n
            total += term
        return max(0.0, 1 - front * total)
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    h = d
    for n in range(1, 100_000):
        step = -n * (n - a)
        b += 2
        d = step * d + b
        d = 1 / (d if abs(d) > tiny else tiny)
        c = b + step / c
        c = c if abs(c) > tiny else tiny
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * h
