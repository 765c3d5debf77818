"""Agreement statistics against worked examples of the literature and against definitions counted out."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.data.agreement import cohen_kappa, fleiss_kappa, interval, spearman

FOURTEEN_RATERS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
"""The worked example that accompanies most descriptions of Fleiss' kappa: 10 subjects, 14 raters, 5 categories."""


def test_fleiss_kappa_of_the_worked_example() -> None:
    assert fleiss_kappa(FOURTEEN_RATERS) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_at_its_ends() -> None:
    assert fleiss_kappa([[3, 0], [0, 3]]) == pytest.approx(1.0)
    assert fleiss_kappa([[1, 1], [1, 1]]) == pytest.approx(-1.0)
    assert fleiss_kappa([[3, 0], [3, 0]]) is None  # all in one category: chance agrees as well
    assert fleiss_kappa([]) is None
    for bad in ([[3, 0], [1, 1]], [[1, 0]]):
        with pytest.raises(ValueError, match="same number of ratings"):
            fleiss_kappa(bad)


def test_cohen_kappa_of_the_textbook_example() -> None:
    """50 grant proposals: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no; agreement 0.7, by chance 0.5."""
    a = [1] * 20 + [1] * 5 + [0] * 10 + [0] * 15
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa([], []) is None
    assert cohen_kappa([1, 1], [1, 1]) is None


def test_spearman_of_the_textbook_example() -> None:
    """Intelligence quotient and hours of television of ten people: -29/165."""
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    assert spearman(iq, hours) == pytest.approx(-29 / 165)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=8))
def test_spearman_is_the_correlation_of_mean_ranks(pairs: list[tuple[int, int]]) -> None:
    def ranks(values: list[int]) -> list[float]:
        return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]

    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    x, y = ranks(a), ranks(b)
    mean = (len(pairs) + 1) / 2
    above = sum((u - mean) * (v - mean) for u, v in zip(x, y, strict=True))
    below = (sum((u - mean) ** 2 for u in x) * sum((v - mean) ** 2 for v in y)) ** 0.5
    found = spearman(a, b)
    assert (found is None) == (below == 0)
    if found is not None:
        assert found == pytest.approx(above / below)


def test_spearman_of_all_orders_lies_between_its_ends() -> None:
    found = [spearman([1, 2, 3, 4], order) for order in permutations([1, 2, 3, 4])]
    assert (min(found), max(found)) == (pytest.approx(-1), pytest.approx(1))  # type: ignore[type-var]
    assert spearman([1], [2]) is None
    with pytest.raises(ValueError, match="unequal length"):
        spearman([1, 2], [1])


def test_wilsons_interval() -> None:
    """81 of 263, the example of Newcombe (1998): 0.2553 to 0.3662."""
    found = interval(81, 263)
    assert (found["low"], found["high"]) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert interval(0, 20)["low"] == 0.0
    assert interval(20, 20)["high"] == 1.0
    assert interval(0, 0) == {"share": None, "low": None, "high": None}
