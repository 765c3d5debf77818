"""The section `admission.ration`: what it may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov import pipeline, recipe
from open4ov.errors import UserError


def load(tmp_path: Path, text: str, *overrides: str) -> recipe.Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: x\n{text}")
    return recipe.load(path, overrides)


@pytest.mark.parametrize(
    ("ration", "message"),
    [
        ("{ratios: [0, 1.2]}", r"admission.ration.ratios.1: 1.2 is no share"),
        ("{ratios: [-0.1, 0.2]}", r"admission.ration.ratios.0: -0.1 is no share"),
        ("{ratios: [0.1, 0.2, 0.1]}", r"ratios.2: 0.1 is there already"),
        ("{ratios: [{a: 0.6, b: 0.5}, 0.1]}", r"ratios.0: the shares of the new sets sum to 1.1; at most 1"),
        ("{ratios: [{}, 0.1]}", r"ratios.0: \{\} is no share"),
        ("{ratios: [0.1]}", "one candidate leaves nothing to choose"),
        ("{trials: 1}", "one candidate leaves nothing to choose"),
        ("{trials: 3, ratios: [0, 0.5]}", "write one of the two"),
        ("{trials: 3, lowest: 0.5, highest: 0.5}", r"lowest: 0.5 must be below"),
        ("{trials: 3, tokens: 100}", r"tokens: 100 is less than one pack"),
        ("{tokens: 5000}", r"admission.ration.tokens: has no effect: admission.ration has no ratios and no trials"),
        ("{ratios: [0, 0.5], highest: 0.4}", r"highest: has no effect"),
        ("{trials: 3, tokens: 5000, weight: 0.4}", r"weight: has no effect: .*objective is constrained"),
        ("{trials: 3, tokens: 5000, objective: weighted, margin: 0.1}", r"margin: has no effect"),
        ("{trials: 3, tokens: 5000, rungs: 1, confidence: 0.9}", r"confidence: has no effect"),
        ("{trials: 3, token: 5000}", r"unknown key 'token'; did you mean 'tokens'"),
    ],
)
def test_faults_name_their_place(tmp_path: Path, ration: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, f"admission: {{ration: {ration}}}")


def test_nothing_reads_replay_beside_ration_and_a_file_is_not_blamed_for_it(tmp_path: Path) -> None:
    text = "admission: {ration: {trials: 3}}\nsft: {knowledge: {replay: 0.3}}"
    with pytest.raises(UserError, match=r"line 3: sft.knowledge.replay: has no effect: admission.ration finds it"):
        load(tmp_path, text)
    load(tmp_path, text, "admission.ration.trials=0")
    load(tmp_path, "sft: {knowledge: {replay: 0.3}}", "admission.ration.trials=3")
    with pytest.raises(UserError, match=r"--set sft.knowledge.replay: has no effect"):
        load(tmp_path, "seed: 1", "sft.knowledge.replay=0.3", "admission.ration.trials=3")


def test_the_graph_has_the_stage_when_it_is_on(tmp_path: Path) -> None:
    off = pipeline.graph(load(tmp_path, "seed: 1")).stages
    assert "ration" not in off
    on = pipeline.graph(load(tmp_path, "admission: {ration: {ratios: [0, 0.2, {vertical: 0.4}]}}")).stages
    assert on["ration"].inputs == ("sets",)
    assert "ration" in on["sft_knowledge"].inputs
    assert "ration" not in on["sft_ability"].inputs
    other = load(tmp_path, "admission: {ration: {ratios: [0, {road: 0.4}]}}")
    with pytest.raises(UserError, match="'road' is no new set of a run, which has one: vertical"):
        pipeline.graph(other).stages["ration"].config(other)
    mixed = pipeline.graph(load(tmp_path, "sft: {schedule: random_mix}\nadmission: {ration: {trials: 3}}")).stages
    assert "ration" in mixed["sft_knowledge"].inputs
