"""The second vertical: a folder of annotated pictures and one YAML file (docs/your-own-vertical.md)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from open4ov.cli import app
from open4ov.errors import UserError
from open4ov.recipe import load
from open4ov.store import ImageStore, iter_samples, read_samples

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "medical-nano.yaml"
EXAMPLE = ROOT / "examples" / "medical-symbols"
FEW = [
    "images.general_count=0",
    "data.hygiene.test=0.4",
    "evaluate.min_items=10",
    "evaluate.items=4",
    "evaluate.samples=2",
    "evaluate.sampled_items=2",
    "evaluate.max_tokens=4",
    "threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of every symbol, as the example draws them."""
    out = tmp_path_factory.mktemp("medical") / "pictures"
    subprocess.run([sys.executable, EXAMPLE / "draw.py", out, "--pictures", "2"], check=True, capture_output=True)
    return out


def go(folder: Path, out: Path, *more: str, until: str | None = None) -> Any:
    options = [item for one in (f"images.vertical={folder}", *FEW, *more) for item in ("--set", one)]
    upto = ("--until", until) if until else ()
    return CliRunner().invoke(app, ["run", str(RECIPE), "--out", str(out), *upto, "--quiet", *options])


def refused(done: Any) -> str:
    """What the command says before it ends; `cli.main` prints it and gives the exit code 2."""
    assert isinstance(done.exception, UserError), (done.output, done.exception)
    return str(done.exception)


def some(pictures: Path, to: Path, count: int = 40) -> Path:
    """A folder with the first few of the pictures."""
    to.mkdir()
    for file in sorted(pictures.glob("*.png"))[:count]:
        shutil.copy(file, to)
        shutil.copy(file.with_suffix(".json"), to)
    return to


def test_the_example_draws_whole_annotations_and_the_same_twice(pictures: Path, tmp_path: Path) -> None:
    told = yaml.safe_load((EXAMPLE / "symbols.yaml").read_text("utf-8"))
    assert len(list(pictures.glob("*.png"))) == 2 * len(told["symbols"]) == 88
    for file in pictures.glob("*.json"):
        about = json.loads(file.read_text("utf-8"))
        assert all(about[key] for key in about if key != "also")
        assert about["category"] in told["categories"]
        with Image.open(file.with_suffix(".png")) as image:
            assert image.size == (96, 96)
    again = tmp_path / "again"
    subprocess.run([sys.executable, EXAMPLE / "draw.py", again, "--pictures", "1"], check=True, capture_output=True)
    for file in again.iterdir():
        assert file.read_bytes() == (pictures / file.name).read_bytes()
    refused = subprocess.run([sys.executable, EXAMPLE / "draw.py", again], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "is not empty; name a new folder" in refused.stderr


def test_names_and_meanings_tell_the_symbols_apart() -> None:
    symbols = yaml.safe_load((EXAMPLE / "symbols.yaml").read_text("utf-8"))["symbols"]
    for language in ("en", "zh"):
        for part in (0, 1):
            assert len({one[language][part] for one in symbols}) == len(symbols)
    for one in symbols:
        for style in ("filled", "outline"):
            assert (EXAMPLE / "icons" / style / f"{Path(one['icon']).name}.png").is_file()
    assert "MIT License" in (EXAMPLE / "LICENSE").read_text()


def test_one_yaml_file_reaches_the_second_vertical(pictures: Path, tmp_path: Path, tiny_dir: Path) -> None:
    """Each annotated question is kept under the label of its category; a model is asked about held-out pictures."""
    out = tmp_path / "run"
    done = go(pictures, out, f"model={tiny_dir}", until="evaluate_base")
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads((out / "data" / "report.json").read_text())
    assert report["counts"]["kept"] == report["counts"]["made"] == 6 * 88
    samples = read_samples(out / "data" / "samples.parquet")
    places = {one.l1 for sample in samples for one in sample.labels if one.axis == "domain"}
    assert places == {"Medical symbols"}
    abilities = {(sample.task, one.l2) for sample in samples for one in sample.labels if one.axis == "ability"}
    assert {task for task, _ in abilities} == {"naming", "category", "meaning"}
    assert ("category", "Category") in abilities
    assert ("meaning", "Meaning") in abilities
    sides: dict[str, set[str]] = {}
    for sample in samples:
        sides.setdefault(sample.images[0], set()).add(sample.split)
    assert all(len(each) == 1 for each in sides.values())
    assert {next(iter(each)) for each in sides.values()} == {"train", "test"}
    results = json.loads((out / "evaluate_base" / "results.json").read_text())
    assert results["suites"]["vertical_en"]["title"] == "medical symbols, English"
    assert results["suites"]["vertical_zh"]["items"] == 4
    assert results["groups"]["vertical"]["of"] == ["vertical_en", "vertical_zh"]
    assert not {"in_car_en", "in_car_zh"} & set(results["suites"])
    store = ImageStore(out / "image-store")
    asked = list(iter_samples(out / "held_out" / "samples.parquet"))
    assert all(store.path(sha).is_file() for one in asked for sha in one.images)
    options = ["--stage", "held_out", "--format", "vlmevalkit", "--name", "symbols", "--out", str(tmp_path / "tsv")]
    done = CliRunner().invoke(app, ["data", "export", str(out), *options])
    assert done.exit_code == 0, (done.output, done.exception)
    lines = (tmp_path / "tsv" / "symbols.tsv").read_text("utf-8").splitlines()
    assert len(lines) == 1 + len(asked)


def test_renamed_files_stay_on_their_side(pictures: Path, tmp_path: Path) -> None:
    def held(folder: Path, out: Path) -> set[str]:
        done = go(folder, out, until="held_out")
        assert done.exit_code == 0, (done.output, done.exception)
        return {sha for one in iter_samples(out / "held_out" / "samples.parquet") for sha in one.images}

    folder = some(pictures, tmp_path / "before")
    renamed = tmp_path / "after"
    renamed.mkdir()
    for number, file in enumerate(sorted(folder.glob("*.png"), reverse=True)):
        shutil.copy(file, renamed / f"{number:03d}.png")
        shutil.copy(file.with_suffix(".json"), renamed / f"{number:03d}.json")
    assert held(folder, tmp_path / "one") == held(renamed, tmp_path / "two")


def test_whole_symbols_are_kept_apart_where_the_recipe_says_so(pictures: Path, tmp_path: Path) -> None:
    done = go(pictures, tmp_path / "run", "data.hygiene.groups=[symbol]", until="held_out")
    assert done.exit_code == 0, (done.output, done.exception)
    sides: dict[str, set[str]] = {}
    for sample in iter_samples(tmp_path / "run" / "data" / "samples.parquet"):
        assert sample.scene is not None
        sides.setdefault(sample.scene["symbol"], set()).add(sample.split)
    assert all(len(each) == 1 for each in sides.values())


# ---------------------------------------------------------------------------------------------- bad input


def test_too_few_pictures_for_the_split_name_what_to_do(pictures: Path, tmp_path: Path) -> None:
    done = go(some(pictures, tmp_path / "few", 3), tmp_path / "run", "data.hygiene.test=0.05", until="held_out")
    assert "held_out: too few questions are held out" in refused(done)
    assert "raise data.hygiene.test (now 0.05)" in refused(done)
    assert (tmp_path / "run" / "data" / "stage.json").exists(), "what was made stays"


def test_pictures_that_lack_keys_or_are_there_twice_or_fit_no_label_are_listed(pictures: Path, tmp_path: Path) -> None:
    folder = some(pictures, tmp_path / "faulty", 12)
    first, second, third, fourth = sorted(folder.glob("*.png"))[:4]
    shutil.copy(first, folder / "zz-copy.png")
    for file, change in ((second, {"meaning": ""}), (third, {"category": "furniture"})):
        path = file.with_suffix(".json")
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")
    fourth.with_suffix(".json").write_text("[1]")
    out = tmp_path / "run"
    done = go(folder, out, until="data")
    assert done.exit_code == 0, (done.output, done.exception)
    skipped = {one["file"]: one["reason"] for one in json.loads((out / "images" / "skipped.json").read_text())}
    assert skipped == {
        "zz-copy.png": f"shows the same as {first.name}",
        second.name: "its annotation has no 'meaning', so that 'meaning' is not asked",
        fourth.name: f"its annotation {fourth.stem}.json is not a JSON object",
    }
    report = json.loads((out / "data" / "report.json").read_text())
    (unlabelled,) = report["skipped"]
    assert unlabelled["reason"] == "no domain label above Others"
    samples = read_samples(out / "data" / "samples.parquet")
    assert {sample.extra["file"] for sample in samples}.isdisjoint({third.name, fourth.name, "zz-copy.png"})
    told = [sample.task for sample in samples if sample.extra["file"] == second.name]
    assert sorted(told) == ["category", "category", "meaning", "naming", "naming"]


def test_a_key_that_no_annotation_has_ends_the_run_before_anything_is_made(pictures: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.read_text("utf-8").replace("answer: {en: name,", "answer: {en: nmae,"), "utf-8")
    options = ["--set", f"images.vertical={some(pictures, tmp_path / 'p', 4)}", "--set", "images.general_count=0"]
    told = CliRunner().invoke(app, ["run", str(recipe), "--out", str(tmp_path / "run"), "--quiet", *options])
    assert "images.questions.0 ('naming'): none of the 4 annotations has the key 'nmae'" in refused(told)
    assert "did you mean 'name'" in refused(told)


def test_a_quorum_that_the_catalog_cannot_give_says_what_to_set(pictures: Path, tmp_path: Path) -> None:
    done = go(some(pictures, tmp_path / "p", 3), tmp_path / "run", "data.quorum=2", until="data")
    assert "none of the 3 images gave a sample" in refused(done)
    assert "2 votes (data.quorum) cannot be had. Set data.quorum to 1" in refused(done)


def test_an_unknown_ability_in_the_labels_ends_the_run_with_its_name(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    text = RECIPE.read_text("utf-8").replace("&asked [recognition, knowledge]", "&asked [recognition, wisdom]")
    recipe.write_text(text.replace("out/medical-symbols", str(EXAMPLE)), "utf-8")
    told = CliRunner().invoke(app, ["run", str(recipe), "--out", str(tmp_path / "run"), "--quiet"])
    assert refused(told).startswith("data.labels: domain.medical_symbols.body: no ability L1 has the id 'wisdom'")
    assert not (tmp_path / "run").exists()


def test_the_recipe_asks_in_both_languages_and_holds_pictures_out() -> None:
    recipe = load(RECIPE)
    assert [one.task for one in recipe.images.questions] == ["naming", "category", "meaning"]
    assert all(set(one.ask) == {"en", "zh"} for one in recipe.images.questions)
    assert recipe.data.hygiene.test > 0
