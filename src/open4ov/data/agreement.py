"""How far raters agree, and how sure a share is: Fleiss' and Cohen's kappa, Spearman's rho, Wilson's interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959964  # of a two-sided 95 % interval


def interval(hits: int, total: int) -> dict[str, Any]:
    """`share` of hits with its 95 % interval `low` to `high` (Wilson's score interval); all None for a total of 0."""
    if total == 0:
        return {"share": None, "low": None, "high": None}
    share, z2 = hits / total, Z * Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    return {
        "share": share,
        "low": 0.0 if hits == 0 else max(0.0, middle - half),
        "high": 1.0 if hits == total else min(1.0, middle + half),
    }


def fleiss_kappa(counts: ArrayLike, times: ArrayLike | None = None) -> float | None:
    """Fleiss' kappa (1971) of [N, K] counts: how many of the n raters put subject i into category j.

    n must be the same for each subject, and at least 2. `times` [N]: how many subjects are like that row (one each
    without it). 1 is perfect agreement, 0 what chance gives. None when it is not defined: no subjects, or every rating
    in one category.
    """
    table = np.asarray(counts, dtype=np.float64)
    if table.size == 0:
        return None
    raters = table.sum(axis=1)
    if raters[0] < 2 or (raters != raters[0]).any():
        raise ValueError("every subject needs the same number of ratings, and at least 2")
    n, weight = float(raters[0]), np.ones(len(table)) if times is None else np.asarray(times, dtype=np.float64)
    alike = (((table**2).sum(axis=1) - n) * weight).sum() / weight.sum()  # whole numbers: exact in any order
    observed = float(alike / (n * (n - 1)))
    totals = (table * weight[:, None]).sum(axis=0)
    chance = float(((totals / totals.sum()) ** 2).sum())
    return None if chance >= 1 else (observed - chance) / (1 - chance)


def cohen_kappa(a: Sequence[int], b: Sequence[int]) -> float | None:
    """Cohen's kappa (1960) of two raters' categories for the same subjects; None when it is not defined."""
    return cohen_kappa_of(Counter(zip(a, b, strict=True)))


def cohen_kappa_of(both: Mapping[tuple[int, int], int]) -> float | None:
    """The same of a table: (category of the first, of the second) → how many subjects."""
    total = sum(both.values())
    if not total:
        return None
    left: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for (x, y), number in both.items():
        left[x] += number
        right[y] += number
    observed = sum(number for (x, y), number in both.items() if x == y) / total
    chance = sum((left[value] / total) * (right[value] / total) for value in sorted({*left, *right}))
    return None if chance >= 1 else (observed - chance) / (1 - chance)


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None when one side is constant or there are under 2."""
    if len(a) != len(b):
        raise ValueError("two lists of unequal length have no rank correlation")
    if len(a) < 2:
        return None
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return None if length == 0 else float((x * y).sum()) / length


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
