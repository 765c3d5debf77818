"""Runs of several seeds as one table, and paired differences between two sets of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from open4ov.errors import UserError
from open4ov.evaluate.compare import against, pooled
from open4ov.evaluate.scores import Answer, write_answers

MODELS = ("base", "sft_knowledge", "dpo")


def run(folder: Path, seed: int, right: dict[str, list[bool]], items: int = 4) -> Path:
    """A run directory with one suite, `naming`, answered by each model as given."""
    for model, verdicts in right.items():
        (folder / f"evaluate_{model}").mkdir(parents=True)
        said = [
            Answer(f"naming/{i}", "naming", "naming", "en", "?", "", ["x"], "exact", ["x"], [ok], [3], [])
            for i, ok in enumerate(verdicts)
        ]
        write_answers(folder / f"evaluate_{model}" / "answers.parquet", said)
        asked = {"seed": seed, "items": items, "samples": 2, "confidence": 0.95}
        (folder / f"evaluate_{model}" / "results.json").write_text(json.dumps(asked))
    (folder / "run.json").write_text(json.dumps({"recipe": {"seed": 99}}))  # what the run was told last
    return folder


def test_questions_of_all_seeds_are_pooled_and_paired(tmp_path: Path) -> None:
    one = run(tmp_path / "one", 0, {"base": [True, False, False, False], "dpo": [True, True, False, False]})
    two = run(tmp_path / "two", 1, {"base": [False, False, False, False], "dpo": [True, True, True, False]})
    results = pooled([one, two], MODELS)
    assert list(results) == ["base", "dpo"]  # nobody evaluated sft_knowledge
    assert results["base"]["suites"]["naming"]["items"] == 8
    assert results["base"]["suites"]["naming"]["score"] == pytest.approx(1 / 8)
    assert results["dpo"]["differences"]["base"]["naming"]["score"] == pytest.approx(4 / 8)
    assert results["dpo"]["seed"] == "0, 1"


def test_a_difference_from_other_runs_is_paired_by_seed(tmp_path: Path) -> None:
    ours = [run(tmp_path / f"a{seed}", seed, {"dpo": [True, True, seed > 0, False]}) for seed in (0, 1)]
    mixed = [run(tmp_path / f"b{seed}", seed, {"sft_knowledge": [False, True, False, False]}) for seed in (1, 0)]
    found = against(ours, "dpo", mixed, "sft_knowledge")["naming"]
    assert found["score"] == pytest.approx(3 / 8)
    assert found["low"] < 3 / 8 < found["high"]


def test_what_cannot_be_pooled_is_refused_by_name(tmp_path: Path) -> None:
    one = run(tmp_path / "one", 0, {"base": [True], "dpo": [True]})
    half = run(tmp_path / "half", 1, {"base": [True]})
    with pytest.raises(UserError, match=r"half: has not evaluated 'dpo' yet"):
        pooled([one, half], MODELS)
    with pytest.raises(UserError, match="both have the seed 0"):
        pooled([one, run(tmp_path / "again", 0, {"base": [True]})], MODELS)
    with pytest.raises(UserError, match="longer: evaluate_base was made with another seed"):
        pooled([one, run(tmp_path / "longer", 2, {"base": [True]}, items=9)], MODELS)
    with pytest.raises(UserError, match="is no run directory"):
        pooled([tmp_path], MODELS)
    with pytest.raises(UserError, match="different questions"):
        against([one], "base", [half], "base")
    with pytest.raises(UserError, match=r"half: has not evaluated 'dpo' yet"):
        against([one], "dpo", [half], "dpo")
    (half / "evaluate_base" / "results.json").write_text("[]")
    with pytest.raises(UserError, match=r"results\.json: missing or damaged"):
        pooled([half], MODELS)
