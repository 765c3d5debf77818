"""When Pass@k gives way to diversity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from online import section, train

from open4ov import keys
from open4ov.errors import UserError
from open4ov.recipe import Recipe, load
from open4ov.rl.schedule import flat, phase


def phases(values: list[float], **changes: object) -> list[str]:
    """The phases of the steps whose rollouts have that pass@k."""
    options, curve = section(steps=len(values), **changes), list[dict[str, Any]]()
    for value in values:
        curve.append({"phase": phase(options, curve), "pass_at_k": value})
    return ["pk" if point["phase"] == "pass_at_k" else "d" for point in curve]


def test_a_share_of_the_steps() -> None:
    assert phases([0.1] * 5, pass_k_share=0.6) == ["pk"] * 3 + ["d"] * 2
    assert phases([0.1] * 4, pass_k_share=0.0) == ["d"] * 4
    assert phases([0.1] * 4, pass_k_share=1.0) == ["pk"] * 4


def test_a_plateau_ends_it_earlier_and_for_good() -> None:
    rising = [0.1, 0.1, 0.3, 0.3, 0.31, 0.31, 0.9, 0.9, 0.9, 0.9]
    plateau = {"steps": 2, "rise": 0.01}
    # means of two steps: .1, .3 (+.2), then .3 -> .31 (+.01: no rise), seen before step 7
    assert phases(rising, pass_k_share=1.0, plateau=plateau) == ["pk"] * 6 + ["d"] * 4
    assert phases(rising, pass_k_share=1.0, plateau={"steps": 2, "rise": 0.005}) == ["pk"] * 10
    assert phases(rising, pass_k_share=0.5, plateau=plateau) == ["pk"] * 5 + ["d"] * 5
    assert phases([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], pass_k_share=1.0, plateau=plateau)[4:] == ["d", "d"]


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 6), st.floats(0, 1))
def test_what_a_plateau_is(values: list[float], steps: int, rise: float) -> None:
    found = flat(values, steps, rise)
    if len(values) < 2 * steps:
        assert not found
    else:
        gained = sum(values[-steps:]) / steps - sum(values[-2 * steps : -steps]) / steps
        assert found is (round(gained, 9) <= rise)
    assert not flat(values, 0, rise)


def test_a_training_that_stalls_goes_on_with_diversity(tiny_dir: Path) -> None:
    options = {"steps": 5, "pass_k_share": 1.0, "plateau": {"steps": 1, "rise": 1.0}}
    assert [p["phase"] for p in train(tiny_dir, **options)[1].curve] == ["pass_at_k"] * 2 + ["diversity"] * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{steps: 20, plateau: {steps: 5}}", "compared after 10 steps, and rl.pass_k_share ends the phase after 10"),
        ("{pass_k_share: 0, plateau: {steps: 5}}", "rl.plateau.steps: has no effect: rl.pass_k_share is 0"),
        ("{plateau: {rise: 0.1}}", "rl.plateau.rise: has no effect: rl.plateau.steps is 0"),
        ("{oversampling: {beta: 0.8}}", "rl.oversampling.beta: has no effect: rl.oversampling.enabled is false"),
        ("{oversampling: {enabled: true, cap: 1}}", "rl.oversampling.cap: 1 rolls out no more"),
        ("{oversampling: {enabled: true, beta: 1}}", "rl.oversampling.beta: expected less than 1"),
        ("{replay: {weight: 1}}", "rl.replay.weight: has no effect: rl.replay.share is 0"),
        (
            "{steps: 2, prompts: 16, replay: {share: 0.02}}",
            "rl.replay.share: 0.02 beside the run's 32 prompts is not one",
        ),
        ("{replay: {share: 1}}", "rl.replay.share: expected less than 1"),
        ("{no_live: stop, no_live_steps: 3}", "rl.no_live_steps: has no effect: rl.no_live is stop"),
        (
            "{freeze_vision: false, vision_cache_gib: 1}",
            "rl.vision_cache_gib: has no effect: rl.freeze_vision is false",
        ),
        ("{group: 1}", "rl.group: expected greater than or equal to 2"),
        ("{steps: 0, plateau: {steps: 3}}", "rl.plateau: has no effect: rl.steps is 0"),
        ("{pass_k_share: 1, diversity_threshold: 0.3}", "rl.diversity_threshold: has no effect"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: a\nrl: {text}\n")
    with pytest.raises(UserError) as told:
        load(path)
    assert said in str(told.value)


def test_what_is_told_and_kept_on_the_way_makes_no_stage_anew() -> None:
    def key(**changes: object) -> dict[str, Any]:
        return keys.training("rl")(Recipe.model_validate({"name": "a", "rl": changes}))

    told = {"checkpoint_every": 3, "tensorboard": True, "wandb": "p", "no_live": "stop", "no_live_steps": 2}
    assert key(**told) == key()
    for changes in ({"replay": {"share": 0.1}}, {"oversampling": {"enabled": True}}, {"plateau": {"steps": 2}},
                    {"max_update_tokens": 512}, {"freeze_vision": False}):  # fmt: skip
        assert key(**changes) != key(), changes


def test_diversity_options_count_when_a_plateau_may_end_pass_at_k(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\nrl: {pass_k_share: 1, diversity_threshold: 0.3, plateau: {steps: 5}}\n")
    assert load(path).rl.diversity_threshold == 0.3
