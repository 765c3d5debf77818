"""Cluster bootstrap, paired tests and Holm's adjustment against enumeration and published formulas."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.evaluate.metrics import wilson
from open4ov.evaluate.statistics import Value, holm, interval, mcnemar, paired, sign_flip


def of(values: list[float], clusters: list[str] | None = None) -> list[Value]:
    names = clusters or [str(index) for index in range(len(values))]
    return [Value(value, name) for value, name in zip(values, names, strict=True)]


def test_independent_yes_no_items_get_wilsons_interval() -> None:
    found = interval([of([1.0] * 7 + [0.0] * 3)], 0.95, "x")
    assert found == wilson(7, 10, 0.95)


def test_clusters_widen_the_interval_as_theory_says() -> None:
    """Ten copies of each of 40 values: the standard error is that of 40 values, not of 400."""
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.2, 40)
    copies = [Value(float(value), str(index)) for index, value in enumerate(base) for _ in range(10)]
    found = interval([copies], 0.95, "x")
    wanted = 2 * 1.96 * base.std(ddof=0) / math.sqrt(40)
    assert found.high - found.low == pytest.approx(wanted, rel=0.1)
    loose = interval([of([one.value for one in copies])], 0.95, "x")
    assert loose.high - loose.low < 0.5 * (found.high - found.low)


def test_the_same_scores_everywhere_still_have_a_width() -> None:
    found = interval([of([1.0] * 20, [str(index // 5) for index in range(20)])], 0.95, "x")
    assert found.value == 1
    assert found.low == pytest.approx(wilson(4, 4, 0.95).low)


def test_parts_count_alike_whatever_their_size() -> None:
    found = interval([of([1.0] * 30 + [0.0] * 10), of([0.0, 1.0, 0.0, 0.0])], 0.95, "x")
    assert found.value == pytest.approx((0.75 + 0.25) / 2)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (7, 2), (3, 3), (1, 9)])
def test_mcnemar_is_the_binomial_test(won: int, lost: int) -> None:
    tosses = won + lost
    likely = [math.comb(tosses, k) / 2**tosses for k in range(tosses + 1)]
    wanted = sum(p for k, p in enumerate(likely) if abs(k - tosses / 2) >= abs(won - tosses / 2))
    assert mcnemar(won, lost) == pytest.approx(wanted)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_sign_flips_are_enumerated(values: list[int]) -> None:
    found = sign_flip([of([float(value) for value in values])], "x")
    totals = [abs(sum(s * v for s, v in zip(signs, values, strict=True)))
              for signs in itertools.product((1, -1), repeat=len(values))]  # fmt: skip
    assert found == pytest.approx(sum(total >= abs(sum(values)) for total in totals) / len(totals))


def test_drawn_sign_flips_are_near_the_normal_approximation() -> None:
    values = [0.3, -0.1, 0.2, 0.5, -0.2] * 8
    found = sign_flip([of(values)], "x")
    z = sum(values) / math.sqrt(sum(value**2 for value in values))
    assert found == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.01)


def test_whole_clusters_are_flipped() -> None:
    together = of([1.0] * 6, ["same"] * 6)
    assert sign_flip([together], "x") == 1.0  # one cluster says nothing
    assert sign_flip([of([1.0] * 6)], "x") == pytest.approx(2 / 2**6)


def test_which_test_is_made() -> None:
    assert paired([of([1.0, 0.0, -1.0, 1.0])], "x") == (mcnemar(2, 1), "McNemar, exact")
    assert paired([of([1.0, 1.0], ["a", "a"])], "x")[1] == "sign flips of clusters"
    assert paired([of([0.5, 1.0])], "x")[1] == "sign flips of clusters"


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"only": 0.2}) == {"only": 0.2}
    assert holm({}) == {}


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_between_no_adjustment_and_bonferroni(chances: dict[str, float]) -> None:
    found = holm(chances)
    for name, p in chances.items():
        assert p <= found[name] <= min(1.0, p * len(chances)) + 1e-12
    order = sorted(chances, key=lambda name: chances[name])
    assert [found[name] for name in order] == sorted(found.values())
