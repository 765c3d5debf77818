"""How many tokens one way needs for what another has at the end of its budget."""

from __future__ import annotations

import math

import numpy as np
import pytest

from open4ov.ablate import reach
from open4ov.ablate.effects import Measured
from open4ov.errors import UserError


def test_tokens_to_an_accuracy_lie_on_the_line_over_their_logarithm() -> None:
    tokens, accuracy = [100.0, 200.0, 400.0], [0.2, 0.4, 0.5]
    assert reach.crossing(tokens, accuracy, 0.3) == pytest.approx(100 * 2**0.5)
    assert reach.crossing(tokens, accuracy, 0.45) == pytest.approx(200 * 2**0.5)
    assert reach.crossing(tokens, accuracy, 0.5) == pytest.approx(400)
    assert reach.crossing(tokens, accuracy, 0.2) == 0
    assert reach.crossing(tokens, accuracy, 0.51) == math.inf


def scores(chances: list[float], seed: int, questions: int = 400) -> reach.Scores:
    """Two seeds, two suites: the same questions under every budget, each known from a budget on for good."""
    rng = np.random.default_rng(seed)
    levels = np.array(chances)[:, None]
    return [[(rng.random(questions) < levels).astype(np.float64) for _ in range(2)] for _ in range(2)]


def test_a_way_that_learns_twice_as_fast_needs_half_the_tokens_and_the_interval_holds_it() -> None:
    fast, slow = scores([0.4, 0.6, 0.8], 1), scores([0.2, 0.4, 0.6], 2)
    found = reach.needed(fast, slow, [100, 200, 400])
    assert found.wanted == pytest.approx(0.6, abs=0.04)
    assert found.of_control == pytest.approx(400)
    assert found.low < found.share < found.high
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.2
    assert found.reached == 1


@pytest.mark.parametrize("chances", [[0.2, 0.4, 0.6], [0.55, 0.62, 0.55], [0.6, 0.4, 0.2]])
def test_a_way_is_never_faster_than_itself(chances: list[float]) -> None:
    """Also where it was better under a smaller budget than at its end."""
    same = scores(chances, 1)
    found = reach.needed(same, same, [100, 200, 400])
    assert found.tokens == found.of_control
    assert found.share == found.low == found.high == 1


def test_an_accuracy_that_is_out_of_reach_is_said_to_be() -> None:
    found = reach.needed(scores([0.1, 0.2, 0.3], 1), scores([0.1, 0.3, 0.9], 2), [100, 200, 400])
    assert found.tokens == found.share == found.low == found.high == math.inf
    assert found.reached == 0


def run(seed: int, right: list[float], prefix: str = "") -> Measured:
    of = {f"{prefix}{n}": value for n, value in enumerate(right)}
    return Measured(seed, {"in_car_en": of, "in_car_zh": of}, {}, {})


def test_scores_of_a_way_are_those_of_its_runs() -> None:
    budgets = [[run(0, [0, 0]), run(1, [0, 1])], [run(0, [1, 0]), run(1, [1, 1])]]
    found = reach.scores(budgets, "vertical")
    assert [[suite.tolist() for suite in seed] for seed in found] == [
        [[[0, 0], [1, 0]]] * 2,
        [[[0, 1], [1, 1]]] * 2,
    ]
    with pytest.raises(UserError, match="seed 0 were asked different questions of 'in_car_en'"):
        reach.scores([[run(0, [0, 0])], [run(0, [0, 0], "other")]], "vertical")
