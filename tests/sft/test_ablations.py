"""The arms of the ablations are runs that a recipe allows, and share what they truly have in common."""

from __future__ import annotations

import pytest

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
