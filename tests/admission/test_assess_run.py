"""The rapid assessment with the tiny model, as the command and as a run's stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from open4ov import pipeline
from open4ov.cli import app
from open4ov.corpora import generate, in_car
from open4ov.errors import RefusedError, UserError
from open4ov.feedback import read
from open4ov.graph import StageRun
from open4ov.model import Qwen3VL
from open4ov.progress import Quiet
from open4ov.recipe import Recipe, load
from open4ov.stages import assess as stage_assess
from open4ov.store import ImageStore, write_samples

RECIPE = """
name: t
model: {model}
threads: 1
images: {{general_count: 20}}
sft: {{precision: fp32, pack_tokens: 512, knowledge: {{replay: 0.3, turns: 1}}}}
admission: {{assess: {{tokens: 600, questions: 20, general_questions: 20, own_questions: 2, gain: 0.4, margin: 0.5}}}}
"""


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never stops by itself."""
    monkeypatch.setattr(stage_assess, "LONGEST", 6)


@pytest.fixture
def recipe(tiny_dir: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(model=tiny_dir))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A stage's folder with some of the vertical and a general set, and the pictures beside it."""
    store = ImageStore(tmp_path / "run" / "image-store")
    folder = tmp_path / "run" / "data"
    pictures = in_car.pictures("train", 1, 0, [symbol.id for symbol in in_car.load()[:4]])
    vertical = [in_car.asked(one, "en", task).store(store) for one in pictures for task in in_car.TASKS]
    write_samples(folder / "samples.parquet", vertical)
    write_samples(folder / "general.parquet", [item.store(store) for item in generate("colour", "train", 8)])
    return folder


@pytest.mark.slow
def test_the_command_trains_asks_and_writes(recipe: Path, data: Path, tmp_path: Path, tiny_dir: Path) -> None:
    """A random model learns nothing in one step: the vertical stays at none right, which 20 questions can tell."""
    out = tmp_path / "out"
    command = ["admit", "assess", str(recipe), "--new", str(data), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == json.loads((out / "verdict.json").read_text())
    assert told["verdict"] == "reject"
    assert told["criteria"]["vertical"]["shown"] == "fails"
    assert told["seeds"] == [0]
    assert told["batch"] == {"id": told["batch"]["id"], "samples": 20, "other_language": 0, "contradicting": 0}
    assert {wish.want for wish in read(out / "feedback.yaml").wishes} == {"better"}
    assert not (out / ".work").exists()
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != ".lock"}
    assert {"verdict.json", "failures.html", "feedback.yaml", "answers.jsonl"} == files.keys()
    CliRunner().invoke(app, command)  # the same again gives the same bytes
    assert files == {name: (out / name).read_bytes() for name in files}
    before = Qwen3VL.from_pretrained(tiny_dir).state_dict()
    assert all(value.isfinite().all() for value in before.values())


def test_the_command_tells_what_is_missing(recipe: Path, data: Path, tmp_path: Path) -> None:
    def refused(*more: str) -> str:
        call = ["admit", "assess", str(recipe), "--new", str(data), "--out", str(tmp_path / "out"), *more]
        error = CliRunner().invoke(app, call).exception
        assert isinstance(error, UserError)
        return str(error)

    assert "admission.assess.tokens is 0" in refused("--set", "admission={}")
    assert "no such file" in refused("--probe", str(tmp_path / "nowhere"))
    (data / "general.parquet").unlink()
    assert "--general is missing" in refused("--set", f"images.general={tmp_path}")


@pytest.mark.slow
def test_a_run_stops_at_rejected_data_unless_told_otherwise(recipe: Path, data: Path, tmp_path: Path) -> None:
    def stage(chosen: Recipe, name: str) -> StageRun:
        out, scratch = tmp_path / name, tmp_path / "scratch"  # one: the second finds training and answers there
        out.mkdir()
        store = ImageStore(data.parent / "image-store")
        return StageRun(chosen, out, scratch, {"data": data}, store, 0, "assess", Quiet())

    with pytest.raises(
        RefusedError, match=r"assess: reject: vertical FAILS: .*set admission\.assess\.on_reject: go_on"
    ):
        stage_assess.run(stage(load(recipe), "a"))
    assert (tmp_path / "a" / "failures.html").exists()
    stage_assess.run(stage(load(recipe, ["admission.assess.on_reject=go_on"]), "b"))
    assert json.loads((tmp_path / "b" / "summary.json").read_text()) == {"verdict": "reject", "rounds": 1}


def test_the_stage_stands_before_the_first_training_where_it_is_asked_for(recipe: Path) -> None:
    stages = pipeline.graph(load(recipe)).stages
    assert "assess" in stages["sft_knowledge"].inputs
    assert "assess" not in pipeline.graph(load(recipe, ["admission={}"])).stages
    config = stages["assess"].config
    kept = config(load(recipe, ["sft.ability.learning_rate=1e-5", "sft.knowledge.tokens=5000"]))
    assert config(load(recipe)) == kept  # stage 1's own length and the later stages do not make it anew
    assert config(load(recipe, ["sft.knowledge.learning_rate=1e-5"])) != kept
    assert config(load(recipe, ["sft.lora_rank=2"])) != kept  # adapters are trained there too
    assert config(load(recipe, ["admission.mastery.verifier_seconds=60"])) != kept
