"""What `dpo` may say, and what of it nothing would read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from open4ov import keys
from open4ov.changes import FILES
from open4ov.errors import UserError
from open4ov.pipeline import graph
from open4ov.recipe import Recipe, load


def loaded(tmp_path: Path, **dpo: Any) -> Recipe:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "r", "dpo": dpo}))
    return load(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("option", "stages"),
    [
        ("rl.reward", {"rl": keys.training("rl"), "rl_pool": keys.rl_pool}),
        ("sft.verifier", {"sft": keys.training("sft_ability"), "probe": keys.probe, "ration": keys.ration}),
        ("dpo.mined", {"dpo": keys.training("dpo")}),
        ("data.hygiene.burned_in", {"data": keys.data}),
    ],
)
def test_another_text_of_a_users_function_makes_its_stages_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, stages: dict[str, Any]
) -> None:
    name = f"own_{option.replace('.', '_')}"
    source = tmp_path / f"{name}.py"
    source.write_text("def rule(*given):\n    return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # pyright: ignore[reportUnknownMemberType]
    recipe = Recipe(name="r")
    section = recipe
    *path, last = option.split(".")
    for part in path:
        section = getattr(section, part)
    shipped = {stage: config(recipe)[FILES] for stage, config in stages.items()}
    setattr(section, last, f"{name}:rule")
    before = {stage: config(recipe)[FILES] for stage, config in stages.items()}
    source.write_text("def rule(*given):\n    return 0.5\n")
    for stage, config in stages.items():
        assert option not in shipped[stage], "what ships goes with the version"
        assert config(recipe)[FILES][option] != before[stage][option]
        source.write_text("def rule(*given):\n    return 1.0\n")
        assert config(recipe)[FILES] == before[stage]
        source.write_text("def rule(*given):\n    return 0.5\n")


HUMAN = {"human": 0.5, "image_normal": 0.5}


@pytest.mark.parametrize(
    ("dpo", "said"),
    [
        ({"mix": {"missing": 1.0}}, "unknown kind 'missing'"),
        ({"mix": {"missing_image": 0.5}}, "the shares sum to 0.5; they must sum to 1"),
        ({"mix": {"missing_image": 1.5, "context": -0.5}}, "-0.5 is negative"),
        ({"mix": HUMAN}, "dpo.mix.human: no file of preference pairs"),
        ({"mix": {"mined": 1.0}}, "dpo.mined names no function"),
        ({"preferences": ["x"]}, "dpo.preferences: has no effect: no share of dpo.mix is for human"),
        ({"mined": "a:b"}, "dpo.mined: has no effect"),
        ({"attributes": {"length": 1}}, "dpo.attributes: has no effect"),
        ({"pairs": 20, "most": 20}, "dpo.most: has no effect: no more than 20 pairs are asked for"),
        ({"mix": {"brevity": 1.0}, "probe": 8}, "dpo.probe: has no effect"),
        ({"mix": {"brevity": 1.0}, "wordings": 3}, "dpo.wordings: has no effect"),
        ({"validation": {"pairs": 0}, "watch": 2.0}, "dpo.watch: has no effect: dpo.validation.pairs is 0"),
        ({"validation": {"pairs": 0, "every": 5}}, "dpo.validation.every: has no effect"),
        ({"pairs": 0, "beta": 0.2}, "dpo.beta: has no effect: dpo.pairs is 0"),
        ({"label_smoothing": 0.5}, "dpo.label_smoothing: expected less than 0.5"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, dpo: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, **dpo)
    assert said in str(caught.value)


def test_pairs_of_rl_s_tasks_want_tasks(tmp_path: Path) -> None:
    mix = {"verified": 0.5, "image_normal": 0.5}
    recipe = loaded(tmp_path, mix=mix)
    assert "rl_pool" in graph(recipe).stages["dpo"].inputs
    assert "rl_pool" not in graph(loaded(tmp_path)).stages["dpo"].inputs
    longer = recipe.model_copy(update={"rl": recipe.rl.model_copy(update={"max_tokens": 99})})
    assert keys.training("dpo")(longer) != keys.training("dpo")(recipe), "responses are as long as RL's"
    (tmp_path / "none.yaml").write_text(yaml.safe_dump({"name": "r", "dpo": {"mix": mix}, "rl": {"steps": 0}}))
    with pytest.raises(UserError, match=r"dpo.mix.verified: has no effect: rl.steps is 0"):
        load(tmp_path / "none.yaml")
    load(tmp_path / "r.yaml", ["rl.steps=0"])  # switched off by an override


def test_a_recipe_with_people_s_pairs(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, preferences=["p.jsonl"], mix=HUMAN, attributes={"politeness": 1})
    assert recipe.dpo.attributes == {"politeness": 1.0}


def test_the_stage_is_made_anew_when_its_pairs_change(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    recipe = loaded(tmp_path, preferences=[str(file)], mix=HUMAN)
    with pytest.raises(UserError, match=r"dpo\.preferences: no such file"):
        keys.training("dpo")(recipe)
    file.write_text("{}")
    first = keys.training("dpo")(recipe)
    file.write_text("{} ")
    assert keys.training("dpo")(recipe)[FILES] != first[FILES]
    file.write_text("{}")
    told = {"checkpoint_every": 7, "tensorboard": True, "wandb": "project"}
    other = recipe.model_copy(update={"dpo": recipe.dpo.model_copy(update=told)})
    assert keys.training("dpo")(other) == first, "what is kept and told on the way changes nothing"
    assert "most" not in first["dpo"], "what was made before there was the option stays"
    fewer = recipe.model_copy(update={"dpo": recipe.dpo.model_copy(update={"most": 9})})
    assert keys.training("dpo")(fewer) != first
