"""Effects, intervals and verdicts against values worked out by hand and from printed tables."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.ablate import student
from open4ov.ablate.effects import Effect, Measured, effect, side, unit
from open4ov.ablate.figures import BUDGETS
from open4ov.ablate.verdict import conditions, decided, reached, small, together, unequal
from open4ov.errors import UserError

PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 30: 2.042}
"""Degrees of freedom -> two-sided 95 % point of Student's t, from printed tables"""


@pytest.mark.parametrize(("freedom", "t"), PRINTED.items())
def test_students_t_is_that_of_the_tables(freedom: int, t: float) -> None:
    assert student.quantile(0.95, freedom) == pytest.approx(t, abs=6e-4)
    assert student.within(t, freedom) == pytest.approx(0.95, abs=1e-4)


def test_students_t_of_one_and_two_degrees_is_the_closed_form() -> None:
    """Cauchy's: P(|T| <= t) = 2/π·atan t; of two degrees t / sqrt(2 + t²)."""
    for t in (0.0, 0.3, 1.0, 7.0):
        assert student.within(t, 1) == pytest.approx(2 / math.pi * math.atan(t))
        assert student.within(t, 2) == pytest.approx(t / math.sqrt(2 + t * t))
    assert student.within(math.inf, 3) == 1


@given(st.integers(1, 40), st.floats(0, 50), st.floats(0.01, 20))
def test_students_t_grows_with_t_and_nears_the_normal(freedom: int, t: float, more: float) -> None:
    assert 0 <= student.within(t, freedom) <= student.within(t + more, freedom) + 1e-12 <= 1 + 1e-12
    assert student.within(t, 400) == pytest.approx(math.erf(t / math.sqrt(2)), abs=2e-3)


def test_an_interval_by_seed_worked_out_by_hand() -> None:
    """1, 2, 3: mean 2, standard deviation 1, t(2) = 4.303: 2 ± 4.303 / sqrt(3). Against 0: t = 2·sqrt 3, p = 0.0742."""
    low, high = student.interval([1.0, 2.0, 3.0], 0.95)
    assert (low, high) == (pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-3), pytest.approx(4.4841, abs=1e-3))
    t = 2 * math.sqrt(3)
    assert student.chance([1.0, 2.0, 3.0]) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert student.chance([1.0, 2.0, 3.0], 2.0) == pytest.approx(1)
    assert student.interval([1.0], 0.95) == (-math.inf, math.inf)
    assert (student.chance([1.0]), student.chance([2.0, 2.0]), student.chance([0.0, 0.0])) == (1, 0, 1)


# ------------------------------------------------------------------------------------------------- verdicts


def found(low: float, high: float, seeds: int = 3) -> Effect:
    return Effect((low + high) / 2, low, high, 0.01, seeds, 100)


@pytest.mark.parametrize(
    ("row", "low", "high", "said"),
    [
        ("general", 0.001, 0.05, "holds"),
        ("general", -0.05, -0.001, "does not hold"),
        ("general", -0.001, 0.05, "undecided"),
        ("general", 0.0, 0.05, "undecided"),  # beyond 0, not from 0 on
        ("length", -4.0, -0.5, "holds"),  # shorter is better
        ("length", 0.5, 4.0, "does not hold"),
        ("entropy", 0.1, 0.2, "holds"),
        ("dead_trained", 0.1, 0.2, "does not hold"),
    ],
)
def test_better_is_decided_by_the_side_on_which_the_interval_lies(row: str, low: float, high: float, said: str) -> None:
    (condition,) = conditions([row], {}, 1.0)
    assert decided(condition, found(low, high)) == said
    assert decided(condition, found(low, high, seeds=2)) == "undecided", "two seeds are too few"


@pytest.mark.parametrize(
    ("row", "low", "high", "said"),
    [
        ("general", -0.019, 0.001, "holds"),  # 2 points of a share
        ("general", -0.021, 0.001, "undecided"),
        ("general", -0.05, -0.021, "does not hold"),
        ("general", -0.019, -0.001, "holds"),  # worse, for sure, but not by so much
        ("false_refusal", -0.01, 0.019, "holds"),  # less is better: not higher by 2 points
        ("false_refusal", 0.021, 0.05, "does not hold"),
        ("length", -3.0, 1.9, "holds"),  # 2 tokens
    ],
)
def test_kept_is_decided_by_the_margin(row: str, low: float, high: float, said: str) -> None:
    (condition,) = conditions([], {row: 2.0}, 1.0)
    assert decided(condition, found(low, high)) == said


def test_an_effect_that_is_surely_too_small_is_said_to_be() -> None:
    (condition,) = conditions(["general"], {}, 1.0)
    assert condition.margin == pytest.approx(0.01)
    assert small(condition, found(-0.002, 0.009))
    assert not small(condition, found(-0.002, 0.011))
    (kept,) = conditions([], {"false_refusal": 2.0}, 1.0)
    assert not small(kept, found(-0.002, 0.009))
    assert (kept.null, conditions([], {"general": 2.0}, 1.0)[0].null) == (pytest.approx(0.02), pytest.approx(-0.02))


def test_a_claim_is_what_its_conditions_are() -> None:
    assert together(["holds", "holds"]) == "holds"
    assert together(["holds", "undecided"]) == "undecided"
    assert together(["undecided", "does not hold"]) == "does not hold"
    assert together([]) == "undecided"


def test_fewer_tokens_for_the_same() -> None:
    assert reached(0.5, 0.9, 3) == "holds"
    assert reached(0.5, math.inf, 3) == "undecided"
    assert reached(math.inf, math.inf, 3) == "does not hold"
    assert reached(0.5, 0.9, 2) == "undecided"


# -------------------------------------------------------------------------------------------------- effects


def run(seed: int, general: list[float], figure: float = 0.0, tokens: float = 1000.0) -> Measured:
    """A run with its right answers to `in_car_en`, twice as many questions to `in_car_zh` of which none is right."""
    scores = {
        "in_car_en": {f"{seed}/e{n}": right for n, right in enumerate(general)},
        "in_car_zh": {f"{seed}/z{n}": 0.0 for n in range(2 * len(general))},
    }
    spent = dict.fromkeys(BUDGETS, 0.0) | {"tokens": tokens}
    return Measured(seed, scores, {"entropy": figure}, spent)


def test_an_effect_is_paired_by_seed_and_question() -> None:
    """Of four questions the arm knows one more in seed 0, two in seed 1, three in seed 2: 25, 50 and 75 points, mean
    50; by seed 50 ± 4.303 · 25 / sqrt 3. Of the group, half of that."""
    theirs = [run(seed, [1.0, 0.0, 0.0, 0.0]) for seed in range(3)]
    mine = [run(seed, [1.0] * (2 + seed) + [0.0] * (2 - seed)) for seed in range(3)]
    one = effect("in_car_en", mine, theirs, 0.95)
    half = 4.3027 * 0.25 / math.sqrt(3)
    assert (one.value, one.questions, one.seeds) == (pytest.approx(0.5), 12, 3)
    assert (one.low, one.high) == (pytest.approx(0.5 - half, abs=1e-3), pytest.approx(0.5 + half, abs=1e-3))
    t = 0.5 / (0.25 / math.sqrt(3))
    assert one.p == pytest.approx(1 - t / math.sqrt(2 + t * t)), "the larger of the two p"
    group = effect("vertical", mine, theirs, 0.95)
    assert (group.value, group.questions) == (pytest.approx(0.25), 36)
    assert group.high - group.low == pytest.approx(half, abs=1e-3)


def test_questions_widen_the_interval_where_seeds_agree() -> None:
    """In every seed one of four questions is gained: nothing differs between seeds, and the questions do."""
    theirs = [run(seed, [0.0, 0.0, 0.0, 1.0]) for seed in range(3)]
    mine = [run(seed, [1.0, 0.0, 0.0, 1.0]) for seed in range(3)]
    found = effect("in_car_en", mine, theirs, 0.95)
    assert found.value == pytest.approx(0.25)
    assert found.low < 0.1 < 0.4 < found.high
    assert found.p == pytest.approx(0.25), "signs of three questions: 2 of 8"


def test_one_seed_has_the_interval_of_its_questions() -> None:
    found = effect("in_car_en", [run(0, [1.0, 0.0])], [run(0, [0.0, 0.0])], 0.95)
    assert found.seeds == 1
    assert 0 <= found.low <= 0.5 <= found.high <= 1


def test_figures_are_paired_by_seed_alone() -> None:
    mine = [run(seed, [1.0], value) for seed, value in enumerate((2.0, 4.0, 6.0))]
    found = effect("entropy", mine, [run(seed, [1.0], seed + 1.0) for seed in range(3)], 0.95)
    assert (found.value, found.questions) == (pytest.approx(2.0), 0)
    assert found.high - found.value == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)
    with pytest.raises(UserError, match="seed 0 has no figure 'dead_trained'"):
        effect("dead_trained", mine, mine, 0.95)


def test_runs_that_cannot_be_paired() -> None:
    with pytest.raises(UserError, match="seed 1 were asked different questions of 'in_car_en'"):
        effect("vertical", [run(0, [1.0]), run(1, [1.0])], [run(0, [1.0]), run(1, [1.0, 1.0])], 0.95)
    with pytest.raises(UserError, match="was not asked 'charts'"):
        effect("charts", [run(0, [1.0])], [run(0, [1.0])], 0.95)
    with pytest.raises(ValueError, match="paired by seed"):
        effect("vertical", [run(0, [1.0])], [run(1, [1.0])], 0.95)


def test_budgets_are_held_against_one_another() -> None:
    one, two = [run(0, [1.0], tokens=1000)], [run(0, [1.0], tokens=1019)]
    assert unequal(["tokens"], one, two) == ""
    assert unequal(["tokens", "responses"], one, two) == "neither spent any responses, or its record is damaged"
    assert unequal(["tokens"], one, [run(0, [1.0], tokens=1100)]) == "tokens 1,000 against 1,100"
    assert unequal(["tokens"], [run(0, [1.0], tokens=0)], [run(0, [1.0], tokens=10)]) == "tokens 0 against 10"


def test_budgets_are_held_against_one_another_seed_by_seed() -> None:
    """Means over these seeds are the same: 1,000 tokens."""
    mine = [run(seed, [1.0], tokens=tokens) for seed, tokens in enumerate((500, 1000, 1500))]
    theirs = [run(seed, [1.0], tokens=1000) for seed in range(3)]
    told = "seed 0: tokens 500 against 1,000; seed 2: tokens 1,500 against 1,000"
    assert unequal(["tokens"], mine, theirs) == told
    pair = [run(seed, [1.0], tokens=tokens) for seed, tokens in enumerate((900, 900, 1000))]
    assert unequal(["tokens"], pair, theirs) == "seeds 0, 1: tokens 900 against 1,000"
    none = [run(seed, [1.0], tokens=1000 * (seed > 0)) for seed in range(3)]
    assert unequal(["tokens"], none, none) == "seed 0: neither spent any tokens, or its record is damaged"


def test_every_row_has_a_unit_and_a_side() -> None:
    assert (unit("general"), side("general")) == ("share", 1)
    assert (unit("length"), side("length")) == ("tokens", -1)
    assert (unit("seconds_per_point"), side("seconds_per_point")) == ("s", -1)
