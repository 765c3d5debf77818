"""`open4ov run --dry-run`: what would run, and what is missing or wrong; nothing is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from open4ov import pipeline
from open4ov.cli import app

RECIPES = Path(__file__).parents[1] / "recipes"


def run(recipe: Path, out: Path, *more: str) -> Any:
    return CliRunner().invoke(app, ["run", str(recipe), "--out", str(out), "--dry-run", *more])


def told_by(name: str, folder: Path, *options: str, until: str = "report") -> dict[str, Any]:
    """What a dry run of a shipped recipe with those options says to a program."""
    chosen = [part for option in options for part in ("--set", option)]
    told = run(RECIPES / f"{name}.yaml", folder / "out", *chosen, "--until", until, "--json")
    assert told.exit_code == 0, told.exception
    return json.loads(told.output.splitlines()[0])


@pytest.mark.parametrize("name", ["qwen3-vl-8b", "qwen3-vl-30b-a3b"])
def test_the_recipes_that_ship_say_what_they_lack(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = run(RECIPES / f"{name}.yaml", tmp_path / "out", "--json")
    assert told.exit_code == 0, told.exception
    found = json.loads(told.output.splitlines()[0])
    assert found["stages"][0]["stage"] == "images"
    status = {step["stage"]: step["status"] for step in found["stages"]}
    assert status["images"] == status["sft_knowledge"] == "blocked"
    missing = "\n".join(found["missing"])
    assert "images.vertical: IMAGES is not a folder" in missing
    assert "models/Qwen3-VL-" in missing
    assert "one for each GPU" in missing
    assert any("data.providers.writer" in line for line in found["needs"])
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_of_the_second_vertical_says_that_its_folder_is_not_drawn_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = run(RECIPES / "medical-nano.yaml", tmp_path / "out", "--json")
    assert told.exit_code == 0, told.exception
    found = json.loads(told.output.splitlines()[0])
    assert "images.vertical: out/medical-symbols is not a folder" in found["missing"][0]
    stages = [step["stage"] for step in found["stages"]]
    assert stages[:3] == ["images", "data", "held_out"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out" / "medical-symbols").mkdir(parents=True)
    told = run(RECIPES / "medical-nano.yaml", tmp_path / "run", "--json")
    assert json.loads(told.output.splitlines()[0])["missing"] == []


def test_what_is_finished_is_told(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: a\nimages: {general_count: 3, per_symbol: 1}\nrl: {steps: 0}\ndpo: {pairs: 0}\n")
    out = tmp_path / "out"
    before = run(recipe, out).output
    assert before.split()[:3] == ["images", "to", "make"]
    assert "Missing" not in before
    done = CliRunner().invoke(app, ["run", str(recipe), "--out", str(out), "--until", "images", "--quiet"])
    assert done.exit_code == 0, done.exception
    files = sorted(path for path in out.rglob("*"))
    after = run(recipe, out, "--until", "data").output
    assert after.splitlines()[:2] == ["images  finished", "data    to make"]
    assert sorted(path for path in out.rglob("*")) == files


@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        (
            "qwen3-vl-8b",
            ["tp=3", "dp_shard=8"],
            "parallel.tp: the model's 32 attention heads cannot",
        ),
        ("qwen3-vl-30b-a3b", ["ep=48", "dp_shard=48"], "parallel.ep: 48 ranks cannot share 128 experts evenly"),
        ("in-car-nano", ["ep=2"], "parallel.ep: 2, but this model has no experts"),
        (
            "in-car-nano",
            ["pp=2", "dp_shard=1", "borders=[6]"],
            "parallel.borders: the last piece would begin at",
        ),
    ],
)
def test_a_mesh_that_cannot_be_is_told_though_the_model_is_not_here(
    name: str, sizes: list[str], said: str, tmp_path: Path
) -> None:
    options = [f"parallel.{size}" for size in sizes]
    found = told_by(name, tmp_path, *options)
    (fault,) = [line for line in found["missing"] if said in line]
    blocked = {step["stage"] for step in found["stages"] if fault in step["missing"]}
    assert blocked == {step["stage"] for step in found["stages"]} & {*pipeline.MODELS} != set()
    assert {step["status"] for step in found["stages"] if step["stage"] in blocked} == {"blocked"}
    data = told_by(name, tmp_path, *options, until="data")
    assert not any(said in line for line in data["missing"])


def test_a_mesh_that_cannot_be_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    keyed = "data.providers.writer.api_key_env=OPENAI_API_KEY"
    found = told_by("qwen3-vl-8b", tmp_path, "parallel.tp=3", keyed)["missing"]
    for fault in (
        "images.vertical: IMAGES is not a folder",
        "no shipped base model and no folder",
        "parallel.tp: the model's 32 attention heads cannot",
        "the environment variable OPENAI_API_KEY is not set",
        "parallel: 12 processes, one for each GPU",
    ):
        assert sum(fault in one for one in found) == 1, fault


def test_a_schedule_that_sft_cannot_recompute_under_is_told_of_sft_alone(tmp_path: Path) -> None:
    schedule = ("parallel.schedule=interleaved_zero_bubble", "parallel.chunks=2", "sft.recompute=op")
    found = told_by("in-car-nano", tmp_path, "parallel.pp=2", "parallel.dp_shard=1", *schedule)
    (fault,) = [line for line in found["missing"] if "recompute 'op'" in line]
    assert {step["stage"] for step in found["stages"] if fault in step["missing"]} == {*pipeline.SFT}


def test_a_mesh_that_takes_what_is_started_is_not_refused(tmp_path: Path) -> None:
    told = run(RECIPES / "qwen3-vl-30b-a3b.yaml", tmp_path / "out", "--set", "parallel.dp_shard=-1")
    assert told.exit_code == 0, told.exception


def test_each_cause_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base model that is missing blocks every training and its evaluation: they name it by its number."""
    monkeypatch.chdir(tmp_path)
    told = run(RECIPES / "qwen3-vl-8b.yaml", tmp_path / "out").output
    stages, _, missing = told.partition("Missing or wrong here:\n")
    assert told.count("no shipped base model and no folder") == 1
    (model,) = [line.split(".")[0].strip() for line in missing.splitlines() if "no shipped base model" in line]
    (sft,) = [line for line in stages.splitlines() if line.startswith("sft_knowledge ")]
    assert sft.split(maxsplit=1)[1] == f"blocked by {model}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_evaluation_that_wants_a_card_is_blocked_without_one(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: a\nevaluate: {device: cuda}\n")
    found = json.loads(run(recipe, tmp_path / "out", "--json").output.splitlines()[0])
    assert found["missing"] == ["evaluate.device: there is no CUDA device here; set it to auto or cpu"]
    blocked = {step["stage"] for step in found["stages"] if step["status"] == "blocked"}
    assert blocked == {step["stage"] for step in found["stages"] if step["stage"].startswith("evaluate_")}
    told = CliRunner().invoke(app, ["run", str(recipe), "--out", str(tmp_path / "run"), "--quiet"])
    assert "evaluate.device: there is no CUDA device here" in str(told.exception)
    assert not (tmp_path / "run").exists()
