"""The options of admission.mastery: what contradicts, and what nothing reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov.errors import UserError
from open4ov.recipe import load


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("{unmastered_at: 0.9}", "unmastered_at", "0.9 must be below admission.mastery.mastered_at = 0.9"),
        ("{most_rollouts: 4}", "most_rollouts", "4 must be above admission.mastery.rollouts = 4"),
        ("{confidence: 0.95}", "confidence", "has no effect: admission.mastery.most_rollouts is empty"),
        ("{weights: {mastered: 0.1}}", "weights", "has no effect: no stage of sft has more than one iteration"),
        ("{mastered_again: 0.1}", "mastered_again", "has no effect: no stage of sft has more than one iteration"),
        ("{rollouts: 0, temperature: 0.5}", "temperature", "has no effect: admission.mastery.rollouts is 0"),
        ("{weights: {mastered: 0, partial: 0, unmastered: 0}}", "weights", "the weights of all levels are zero"),
        ("{weights: {mastered: -1}}", "weights.mastered", "greater than or equal to 0"),
        ("{weights: {master: 1}}", "weights.master", "unknown key 'master'; did you mean 'mastered'?"),
        ("{boxed: maybe}", "boxed", "expected 'auto', 'always' or 'never'"),
        ("{confidence: 0.5}", "confidence", "greater than 0.5"),
        ("{rollouts: 0, verifier_seconds: 5}", "verifier_seconds", "has no effect: admission.mastery.rollouts is 0"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, section: str, key: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: x\nadmission:\n  mastery: {section}\n")
    with pytest.raises(UserError) as error:
        load(path)
    line = next(line for line in str(error.value).splitlines() if message in line)
    assert f"admission.mastery.{key}: " in line
    assert "line 3" in line


def test_all_that_has_an_effect_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: x\nadmission: {mastery: {rollouts: 2, most_rollouts: 8, confidence: 0.8, samples: 3, boxed: never, "
        "temperature: 0.5, max_tokens: 9, verifier_seconds: 2, mastered_at: 0.8, unmastered_at: 0.2}}\n"
    )
    assert load(path).admission.mastery.most_rollouts == 8
