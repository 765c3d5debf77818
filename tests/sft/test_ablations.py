"""The arms of the ablations are runs that a recipe allows, and share what they truly have in common."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bench import ablation_budget as budget
from bench import ablations
from open4ov import pipeline
from open4ov.recipe import Recipe, load


def recipe_of(name: str) -> Recipe:
    return load(ablations.RECIPE, (*ablations.SMALL_SAMPLED, *ablations.ARMS[name].overrides))


@pytest.mark.parametrize("name", ablations.ARMS)
def test_every_arm_can_be_run_as_far_as_it_is_to_go(name: str) -> None:
    assert ablations.ARMS[name].until in pipeline.graph(recipe_of(name)).stages


@pytest.mark.parametrize("name", [name for name, arm in ablations.ARMS.items() if arm.like])
def test_an_arm_shares_the_stages_that_are_equal_and_no_others(name: str) -> None:
    arm = ablations.ARMS[name]
    assert arm.like is not None
    mine, other = recipe_of(name), recipe_of(arm.like)
    graphs = pipeline.graph(mine).stages, pipeline.graph(other).stages
    until = {stage.name for stage in pipeline.graph(mine).needed(arm.until)}
    made = {stage.name for stage in pipeline.graph(other).needed(ablations.ARMS[arm.like].until)}
    equal: set[str] = set()
    for stage in (name for name in graphs[0] if name in until & made):
        one, two = graphs[0][stage], graphs[1][stage]
        same = one.config(mine) == two.config(other) and one.inputs == two.inputs
        if same and equal.issuperset(one.inputs):
            equal.add(stage)
    assert equal == set(arm.shares) & until


def test_what_is_set_for_all_arms_has_the_last_word_and_is_said_once(tmp_path: Path) -> None:
    words = ablations.command(ablations.ARMS["curriculum"], 3, tmp_path, threads=2, extra=("threads=1", "name=other"))
    told = [one for flag, one in pairwise(words) if flag == "--set"]
    assert [one for one in told if one.startswith("threads")] == ["threads=1"]
    assert {"seed=3", "name=other"} <= set(told)
    load(ablations.RECIPE, told)


def test_tokens_to_an_accuracy_lie_on_the_line_over_their_logarithm() -> None:
    tokens, accuracy = [100.0, 200.0, 400.0], [0.2, 0.4, 0.5]
    assert budget.crossing(tokens, accuracy, 0.3) == pytest.approx(100 * 2**0.5)
    assert budget.crossing(tokens, accuracy, 0.45) == pytest.approx(200 * 2**0.5)
    assert budget.crossing(tokens, accuracy, 0.5) == pytest.approx(400)
    assert budget.crossing(tokens, accuracy, 0.2) == 0
    assert budget.crossing(tokens, accuracy, 0.51) == math.inf


def scores(chances: list[float], seed: int, questions: int = 400) -> budget.Scores:
    """Two seeds, two suites: the same questions under every budget, each known from a budget on for good."""
    rng = np.random.default_rng(seed)
    levels = np.array(chances)[:, None]
    return [[(rng.random(questions) < levels).astype(np.float64) for _ in range(2)] for _ in range(2)]


def test_a_way_that_learns_twice_as_fast_needs_half_the_tokens_and_the_interval_holds_it() -> None:
    fast, slow = scores([0.4, 0.6, 0.8], 1), scores([0.2, 0.4, 0.6], 2)
    found = budget.needed(fast, slow, [100, 200, 400])
    assert found.wanted == pytest.approx(0.6, abs=0.04)
    assert found.low < found.tokens < found.high
    assert found.low < 200 < found.high
    assert found.high - found.low < 80
    assert found.reached == 1


def test_an_accuracy_that_is_out_of_reach_is_said_to_be() -> None:
    found = budget.needed(scores([0.1, 0.2, 0.3], 1), scores([0.1, 0.3, 0.9], 2), [100, 200, 400])
    assert found.tokens == found.low == found.high == math.inf
    assert found.reached == 0
    text = budget.markdown({"mastery": [0.1, 0.2, 0.3], "uniform": [0.1, 0.3, 0.9]}, [100, 200, 400], found)
    assert "mastery reaches that with more than 400 tokens (95 % interval" in text
