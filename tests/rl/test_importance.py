"""Truncated importance weights: the golden vector, their statistics, and what is no number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.rl import importance

GAPS = torch.tensor([0, 0.1, 1, -2], dtype=torch.float64)
ROLLOUT = torch.tensor([-1.0, -2.0, -3.0, -0.5], dtype=torch.float64)


def test_golden() -> None:
    """shared reference: log-gaps [0, .1, 1, -2] and C = 2 (FlashRL)."""
    found = importance.weights(ROLLOUT + GAPS, ROLLOUT, 2.0)
    assert found.tolist() == pytest.approx([1, 1.105171, 2, 0.135335], abs=1e-6)
    told = importance.statistics(ROLLOUT + GAPS, ROLLOUT, torch.zeros(4, dtype=torch.long), 1, 2.0)
    assert told.product == pytest.approx(0.406570, abs=1e-6)
    assert told.geometric == pytest.approx(0.798516, abs=1e-6)
    assert told.weight == pytest.approx((1 + 1.105171 + 2 + 0.135335) / 4, abs=1e-6)
    assert (told.capped, told.gap) == (0.25, pytest.approx(3.1 / 4))


def test_products_are_of_responses() -> None:
    told = importance.statistics(GAPS, torch.zeros(4, dtype=torch.float64), torch.tensor([0, 1, 1, 0]), 2)
    assert told.product == pytest.approx((math.exp(-2) + math.exp(1.1)) / 2)
    assert told.geometric == pytest.approx((math.exp(-1) + math.exp(0.55)) / 2)


@settings(max_examples=40)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20), st.floats(0.1, 10))
def test_weights_lie_between_zero_and_the_cap(gaps: list[float], cap: float) -> None:
    values = torch.tensor(gaps, dtype=torch.float64)
    found = importance.weights(values, torch.zeros_like(values), cap)
    assert bool(((found >= 0) & (found <= cap)).all())
    below = values.exp() <= cap
    torch.testing.assert_close(found[below], values.exp()[below])


def test_the_estimate_is_unbiased_where_nothing_is_capped() -> None:
    """Of a token's distribution: E_rollout[w f] = E_old[f]."""
    old, rollout = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    weights = importance.weights(old.log(), rollout.log(), 2.0)
    f = torch.tensor([3.0, -1.0, 7.0])
    assert float((rollout * weights * f).sum()) == pytest.approx(float((old * f).sum()), rel=1e-6)


def test_no_gradient_goes_through() -> None:
    old = torch.zeros(3, requires_grad=True)
    assert not importance.weights(old, torch.zeros(3)).requires_grad


def test_impossible_tokens_have_the_cap_and_no_numbers_are_refused() -> None:
    assert importance.weights(torch.tensor([-1.0]), torch.tensor([-torch.inf])).tolist() == [2.0]
    for old, rollout in ((torch.nan, -1.0), (-torch.inf, -1.0), (-1.0, torch.nan)):
        with pytest.raises(ValueError, match="no numbers"):
            importance.weights(torch.tensor([old]), torch.tensor([rollout]))
    with pytest.raises(ValueError, match="same tokens"):
        importance.weights(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="above 0"):
        importance.weights(torch.zeros(1), torch.zeros(1), 0)


def test_what_is_far_apart_still_has_figures() -> None:
    """A response of 200 tokens half a nat apart each, and one with an impossible token: no infinity in a journal."""
    old, rollout = torch.full((201,), -1.0), torch.full((201,), -1.5)
    rollout[200] = -torch.inf
    told = importance.statistics(old, rollout, torch.tensor([0] * 200 + [1]), 2)
    assert all(math.isfinite(value) for value in told.figures().values())
    assert told.product == pytest.approx(math.exp(importance.FURTHEST))
    assert told.gap == pytest.approx((200 * 0.5 + importance.FURTHEST) / 201)


def test_parts_are_told_together_as_one() -> None:
    old, rollout = torch.tensor([0.0, -0.3, -1.0, -2.0, -0.1]), torch.tensor([-1.0, -0.2, -1.5, -1.0, -0.4])
    whole = importance.statistics(old, rollout, torch.tensor([0, 0, 1, 1, 2]), 3)
    first = importance.statistics(old[:2], rollout[:2], torch.tensor([0, 0]), 1)
    rest = importance.statistics(old[2:], rollout[2:], torch.tensor([0, 0, 1]), 2)
    assert importance.together([first, rest], [1, 2], [2, 3]).figures() == pytest.approx(whole.figures(), abs=2e-6)


@pytest.mark.parametrize(
    ("when", "exact", "expected"),
    [("auto", True, False), ("auto", False, True), ("never", False, False), ("always", True, True)],
)
def test_when(when: importance.When, exact: bool, expected: bool) -> None:
    assert importance.wanted(when, exact) is expected
