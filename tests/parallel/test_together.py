"""A run and the number of its processes: what is refused before anything starts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from open4ov import pipeline, together, training
from open4ov.errors import UserError
from open4ov.parallel import launch
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


@contextmanager
def two(options: Any, device: str) -> Generator[Any]:
    """In the place of `launch.joined`: the first of two processes, which has not met the other."""
    yield launch.World(0, 2, 0, torch.device(device), store=None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"parallel": {"ep": 2}}, r"parallel\.ep: 2, but this model has no experts"),
        ({"parallel": {"pp": 2, "borders": [9]}}, r"parallel\.borders: the last piece would begin at layer 9"),
        ({"parallel": {"pp": 2, "schedule": "zbv"}, "sft": {"recompute": "op"}}, r"zbv .* recompute 'op'"),
    ],
)
def test_what_the_model_cannot_be_cut_into_is_told_before_anything_is_made(
    section: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(launch, "joined", two)
    chosen = Recipe.model_validate({"name": "small", **section})
    with pytest.raises(UserError, match=said):
        together.run(chosen, tmp_path / "out", Quiet(), "sft_preference")
    assert not (tmp_path / "out").exists()


UNLIKE = {"sft": {"device": "cpu"}, "rl": {"device": "cuda"}, "dpo": {"pairs": 0}}


def test_trainings_on_unlike_devices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are joined for one kind of device; SFT that is finished needs none any more."""
    chosen = Recipe.model_validate({"name": "small", "parallel": {"dp_shard": 2}, **UNLIKE})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(launch, "joined", two)
    monkeypatch.setattr(training, "device", lambda choice, key: torch.device(choice))
    with pytest.raises(UserError, match=r"sft\.device: cpu, rl\.device: cuda: several processes"):
        together.run(chosen, tmp_path / "out", Quiet())
    assert not (tmp_path / "out").exists()
    kinds: list[str] = []

    @contextmanager
    def noted(options: Any, device: str) -> Generator[Any]:
        kinds.append(device)
        raise RuntimeError("joined")
        yield

    monkeypatch.setattr(launch, "joined", noted)
    monkeypatch.setattr(pipeline.Graph, "finished", lambda *_: {*pipeline.SFT})
    for until in ("sft_preference", "rl"):
        with pytest.raises(RuntimeError, match="joined"):
            together.run(chosen, tmp_path / "out", Quiet(), until)
    assert kinds == ["cpu", "cuda"]


def test_rl_alone_takes_a_schedule_that_sft_could_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SFT is finished, how it would compute again is of no interest."""
    section = {"parallel": {"pp": 2, "schedule": "zbv"}, "sft": {"recompute": "op"}}
    chosen = Recipe.model_validate({"name": "small", **section})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(launch, "joined", two)
    monkeypatch.setattr(pipeline.Graph, "finished", lambda *_: {*pipeline.SFT})

    def agreed(*_: Any) -> None:
        raise RuntimeError("came to what follows")

    monkeypatch.setattr(together, "agree", agreed)
    with pytest.raises(RuntimeError, match="came to what follows"):
        together.run(chosen, tmp_path, Quiet(), "rl")
