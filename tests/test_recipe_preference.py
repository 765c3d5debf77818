"""What `sft.preference_set` may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov.errors import UserError
from open4ov.pipeline import graph
from open4ov.recipe import Recipe, load
from open4ov.recipe_preference import SHARES


def written(tmp_path: Path, *lines: str) -> Recipe:
    file = tmp_path / "recipe.yaml"
    file.write_text("\n".join(("name: t", *lines)))
    return load(file)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["    shares: {markdown: 0.5, human: 0.4}"], r"line 4: .*shares: the shares sum to 0\.9; they must sum to 1"),
        (["    shares: {markdwon: 1.0}"], r"unknown kind 'markdwon'; did you mean 'markdown'"),
        (["    shares: {markdown: 1.5, human: -0.5}"], r"shares\.human: -0\.5 is negative"),
        (["    hard_share: 0.1"], r"hard_share: has no effect: sft\.preference_set\.hard names no earlier run"),
        (["    shares: {human: 1.0}", "    pictures: 3"], r"pictures: has no effect: no share .* long conversations"),
        (["    shars: {}"], r"unknown key 'shars'; did you mean 'shares'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, lines: list[str], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        written(tmp_path, "sft:", "  preference_set:", *lines)


def test_a_writer_without_a_style_to_write_has_no_effect(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.roles\.preference: has no effect: no share .* a style"):
        written(
            tmp_path,
            "data: {providers: {default: {kind: catalog}, big: {kind: engine, model: nano}}, roles: {preference: big}}",
            "sft: {preference_set: {shares: {usual: 1.0}}}",
        )


def test_the_baseline_of_one_set_has_no_use_for_it(tmp_path: Path) -> None:
    for field in ("pictures: 3", "shares: {usual: 1.0}", "hard: x"):
        with pytest.raises(UserError, match=r"preference_set\.\w+: has no effect: sft\.schedule is single_stage"):
            written(tmp_path, f"sft: {{schedule: single_stage, preference_set: {{{field}}}}}")
    roles = "data: {providers: {default: {kind: catalog}, b: {kind: engine, model: nano}}, roles: {preference: b}}"
    with pytest.raises(UserError, match=r"data\.roles\.preference: has no effect: sft\.schedule is single_stage"):
        written(tmp_path, roles, "sft: {schedule: single_stage}")
    written(tmp_path, roles, "sft: {schedule: random_mix, preference_set: {pictures: 3}}")


def test_the_default_shares_sum_to_one() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)


def test_a_stage_may_have_longer_packs(tmp_path: Path) -> None:
    sft = written(tmp_path, "sft: {pack_tokens: 512, preference: {pack_tokens: 1024}}").sft
    assert [sft.pack_of(name) for name in ("knowledge", "ability", "preference")] == [512, 512, 1024]
    assert sft.of("preference").pack_tokens == 1024
    with pytest.raises(UserError, match=r"1000 is less than one pack \(sft\.preference\.pack_tokens = 2048\)"):
        written(tmp_path, "sft: {preference: {tokens: 1000, pack_tokens: 2048}}")
    with pytest.raises(UserError, match=r"sft\.preference\.pack_tokens: has no effect: sft\.schedule is random_mix"):
        written(tmp_path, "sft: {schedule: random_mix, preference: {pack_tokens: 1024}}")


def test_a_change_of_the_set_leaves_the_earlier_stages_alone(tmp_path: Path) -> None:
    recipe = Recipe(name="t")
    other = recipe.model_copy(deep=True)
    other.sft.preference_set.pictures = 3
    stages = graph(recipe).stages
    for name in ("sft_knowledge", "sft_ability"):
        assert stages[name].config(recipe) == stages[name].config(other)
    assert stages["preference_set"].config(recipe) != stages["preference_set"].config(other)


def test_an_earlier_run_that_is_not_there_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    recipe = Recipe(name="t")
    recipe.sft.preference_set.hard = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"sft\.preference_set\.hard: .*no such file or directory"):
        graph(recipe).stages["preference_set"].config(recipe)
