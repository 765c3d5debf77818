"""The development questions of our corpora, and a real model asked them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from open4ov.corpora import generate, in_car
from open4ov.graph import StageRun
from open4ov.loop import found, questions, weaknesses
from open4ov.loop.questions import Look
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.sample import Label, Sample
from open4ov.stages import sets
from open4ov.store import ImageStore, read_samples, write_json, write_samples


def stage(root: Path, recipe: Recipe, name: str, *inputs: str) -> StageRun:
    (root / name).mkdir()
    return StageRun(
        recipe=recipe,
        out=root / name,
        scratch=root,
        inputs={given: root / given for given in inputs},
        images=ImageStore(root / "image-store"),
        seed=0,
        stage=name,
        _reporter=Quiet(),
    )


def labelled(sample: Sample) -> Sample:
    kind = "Dashboard tell-tales" if (sample.scene or {})["symbol_kind"] == "tell_tale" else "Road signs"
    ability = "Recognition" if sample.task == "in_car_name" else "Knowledge"
    l2 = "Symbol naming" if ability == "Recognition" else "Meaning"
    labels = [Label(axis="domain", l1="Automotive", l2=kind), Label(axis="ability", l1=ability, l2=l2)]
    return sample.model_copy(update={"labels": labels})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Stage `data` of one picture each of many symbols, asked for a name and a meaning."""
    store = ImageStore(tmp_path / "image-store")
    some = [symbol.id for symbol in in_car.load()[::6]]
    shown = list(in_car.pictures("train", 1, 0, some))
    vertical = [
        in_car.asked(one, "en", task).store(store) for one in shown for task in ("in_car_name", "in_car_meaning")
    ]
    (tmp_path / "data").mkdir()
    write_samples(tmp_path / "data" / "samples.parquet", map(labelled, vertical))
    write_samples(tmp_path / "data" / "general.parquet", [one.store(store) for one in generate("colour", "train", 8)])
    write_json(tmp_path / "data" / "report.json", {"density": {"budgets": {"2": len(shown)}}})
    return tmp_path


@pytest.mark.slow
def test_questions_of_the_corpora_are_held_out_new_each_round_and_of_all_kinds(root: Path, tiny_dir: Path) -> None:
    recipe = Recipe.model_validate(
        {"name": "r", "model": str(tiny_dir), "threads": 1, "loop": {"questions": 24, "general_questions": 20}}
    )
    sets.run(stage(root, recipe, "sets", "data"))
    taught = {sha for one in read_samples(root / "data" / "samples.parquet") for sha in one.images}
    asked: dict[int, set[str]] = {}
    for number in (1, 2):
        run = stage(root, recipe, f"development-{number}", "data", "sets")
        questions.choose(run, Look(recipe, number))
        vertical = read_samples(run.out / "vertical.parquet")
        assert len(vertical) == 24
        assert {(one.scene or {})["symbol_kind"] for one in vertical} == {"tell_tale", "road_sign"}
        assert {one.split for one in vertical} == {"val"}
        asked[number] = {sha for one in vertical for sha in one.images}
        assert asked[number].isdisjoint(taught)
    assert asked[1].isdisjoint(asked[2])
    tests = {sha for item in in_car.items("test", 1) for sha in item.store(ImageStore(root / "image-store")).images}
    assert tests.isdisjoint(asked[1] | asked[2])

    shutil.copytree(root / "development-1", root / "development")
    (root / "dpo").mkdir()
    shutil.copytree(tiny_dir, root / "dpo" / "model")
    run = stage(root, recipe, "weaknesses", "data", "sets", "development", "dpo")
    weaknesses.measure(run, Look(recipe, 1))
    told = found.read(run.out / "weaknesses.json")
    assert told.vertical.questions == 24
    assert told.general is not None
    assert (told.general.before, told.general.drop) == (told.general.after, 0.0), "the model is the base"
    assert sum(row.questions for row in told.places) <= 24
    assert {row.domain for row in told.places} <= {
        "Automotive ~ Road signs",
        "Automotive ~ Dashboard tell-tales",
        "Automotive",
    }
    assert sum(row.made for row in told.places) == pytest.approx(1, abs=1e-5)
    verdicts = json.loads((run.out / "answers.json").read_text())
    assert sum(one["right"] for one in verdicts.values() if "place" in one) == round(24 * told.vertical.right)


def test_a_place_is_drawn_to_all_by_four_questions() -> None:
    """17 of 24 wrong, all other 176 wrong: by hand (4 m + 17) / 28 with m = 193.5 / 201; a place of one is near all."""
    told = weaknesses.shortfalls({"seen": [False] * 17 + [True] * 7, "many": [False] * 175, "one": [False]})
    share = 193.5 / 201
    assert told["seen"].mean == pytest.approx((4 * share + 17) / 28, abs=1e-6)
    assert told["seen"].low < 17 / 24 < told["seen"].high < told["many"].low
    assert told["one"].mean == pytest.approx((4 * share + 1) / 5, abs=1e-6)
    assert told["seen"].loss == pytest.approx(told["seen"].mean + 0.01)
