"""A run and the number of its processes: what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov import pipeline, together
from open4ov.errors import UserError
from open4ov.progress import Quiet
from open4ov.recipe import Recipe

DATA = {"images": {"per_symbol": 1, "general_count": 12}, "rl": {"steps": 0}, "dpo": {"pairs": 0}}


def recipe(**sizes: int) -> Recipe:
    return Recipe.model_validate({"name": "small", "parallel": sizes})


def test_one_process_is_not_a_mesh_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match=r"tp 2 .*does not divide 1.*torchrun"):
        together.run(recipe(tp=2), tmp_path / "out", Quiet())
    assert not (tmp_path / "out").exists()


def test_one_process_runs_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    asked: list[str | None] = []
    monkeypatch.setattr(pipeline, "run", lambda recipe, root, reporter, until, retry: asked.append(until))
    assert together.run(recipe(), tmp_path / "out", Quiet(), "sft_knowledge")
    assert asked == ["sft_knowledge"]


@pytest.mark.slow
def test_one_process_makes_the_data_of_a_training_on_eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    chosen, out = Recipe.model_validate({"name": "small", "parallel": {"dp_shard": 8}, **DATA}), tmp_path / "out"
    assert together.run(chosen, out, Quiet(), "sets")
    assert (out / "sets" / "stage.json").exists()
    with pytest.raises(UserError, match=r"dp_shard 8 = 8 processes, but 1 were started"):
        together.run(chosen, out, Quiet(), "evaluate_sft_knowledge")
    assert not (out / "sft_knowledge").exists()


def test_one_process_evaluates_what_eight_have_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    asked: list[str | None] = []
    monkeypatch.setattr(pipeline, "run", lambda recipe, root, reporter, until, retry: asked.append(until))
    monkeypatch.setattr(pipeline.Graph, "finished", lambda *_: {"sft_knowledge", "sft_ability"})
    assert together.run(recipe(dp_shard=8), tmp_path, Quiet(), "evaluate_sft_ability")
    with pytest.raises(UserError, match=r"but 1 were started"):
        together.run(recipe(dp_shard=8), tmp_path, Quiet(), "evaluate_sft_preference")
    assert asked == ["evaluate_sft_ability"]
