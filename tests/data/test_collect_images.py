"""Stage `images`: corpora and folders, with every file that cannot be used listed."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov.corpora import TASKS, in_car
from open4ov.data.construct import collect_images
from open4ov.data.images import shares
from open4ov.errors import UserError
from open4ov.recipe import ImagesSection, Recipe
from open4ov.sample import Sample
from open4ov.store import ImageStore, read_samples


@dataclass
class Run:
    """What the stage reads of a StageRun."""

    recipe: Recipe
    out: Path
    images: ImageStore
    steps: list[tuple[str, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def progress(self, description: str, done: int, total: int) -> None:
        self.steps.append((description, done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


def collect(tmp_path: Path, **options: Any) -> tuple[list[Sample], list[Sample], list[dict[str, str]], Run]:
    run = Run(Recipe(name="t", images=ImagesSection(**options)), tmp_path / "out", ImageStore(tmp_path / "store"))
    run.out.mkdir(exist_ok=True)
    collect_images(run)  # type: ignore[arg-type]
    skipped = json.loads((run.out / "skipped.json").read_text("utf-8"))
    return read_samples(run.out / "samples.parquet"), read_samples(run.out / "general.parquet"), skipped, run


def test_corpora_give_annotated_train_images_of_every_symbol_and_task(tmp_path: Path) -> None:
    vertical, general, skipped, run = collect(tmp_path, per_symbol=1, general_count=100)
    assert skipped == []
    assert {sample.scene["symbol"] for sample in vertical if sample.scene} == {symbol.id for symbol in in_car.load()}
    assert all(not sample.messages and len(sample.images) == 1 for sample in vertical)
    assert len(general) == 100
    assert {sample.task for sample in general} == set(TASKS)
    assert {sample.language for sample in general} == {"en", "zh"}
    assert all(sample.messages and sample.answer for sample in general)
    assert {sample.split for sample in (*vertical, *general)} == {"train"}
    assert all(run.images.get(sha) for sample in (*vertical, *general) for sha in sample.images)
    assert ("drawing the general set", 100, 100) in run.steps
    assert json.loads((run.out / "summary.json").read_text()) == {
        "vertical": len(vertical),
        "general": 100,
        "skipped": 0,
    }


def test_several_questions_are_asked_about_a_general_picture(tmp_path: Path) -> None:
    _, general, _, run = collect(tmp_path, per_symbol=1, general_count=35, general_questions=3)
    asked = Counter(tuple(sample.images) for sample in general if sample.images)
    assert max(asked.values()) == 3
    assert len({sample.id for sample in general}) == len(general) > 50
    assert len({(*sample.images, sample.messages[0].text) for sample in general if sample.images}) == asked.total()
    assert ("drawing the general set", 35, 35) in run.steps


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run = collect(tmp_path / name, per_symbol=1, general_count=40)[3]
        files.append([(run.out / file).read_bytes() for file in ("samples.parquet", "general.parquet")])
    assert files[0] == files[1]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Good and bad files, as a user's folder holds them."""
    path = tmp_path / "pictures"
    path.mkdir()
    Image.new("CMYK", (40, 30), (0, 200, 200, 0)).save(path / "cmyk.jpg")
    Image.new("RGB", (40, 30), (9, 8, 7)).save(path / "plain.png")
    (path / "plain.json").write_text('{"kind": "photo", "标志": "停"}', "utf-8")
    Image.new("RGB", (40, 30), (9, 8, 7)).save(path / "same.bmp")
    Image.new("RGB", (41, 30), (1, 2, 3)).save(path / "odd.png")
    (path / "odd.json").write_text("{not json", "utf-8")
    Image.new("RGB", (42, 30), (1, 2, 3)).save(path / "list.png")
    (path / "list.json").write_text("[1]", "utf-8")
    Image.new("RGB", (400, 300)).save(path / "large.png")
    (path / "cut.png").write_bytes((path / "large.png").read_bytes()[:200])
    (path / "empty.jpg").write_bytes(b"")
    (path / "notes.txt").write_text("hello", "utf-8")
    (path / "lonely.json").write_text("{}", "utf-8")
    (path / ".hidden").write_text("x", "utf-8")
    return path


def test_a_folder_keeps_annotations_and_lists_what_it_skips(tmp_path: Path, pictures: Path) -> None:
    vertical, general, skipped, run = collect(tmp_path, vertical=str(pictures), general_count=0, max_pixels=50_000)
    assert general == []
    assert {sample.extra["file"]: sample.scene for sample in vertical} == {
        "cmyk.jpg": None,
        "plain.png": {"kind": "photo", "标志": "停"},
    }
    reasons = {entry["file"]: entry["reason"] for entry in skipped}
    assert set(reasons) == {
        "same.bmp", "odd.png", "list.png", "large.png", "cut.png", "empty.jpg", "notes.txt", "lonely.json",
    }  # fmt: skip
    assert "plain.png" in reasons["same.bmp"]
    assert "odd.json" in reasons["odd.png"]
    assert "not a JSON object" in reasons["list.png"]
    assert "50000 pixels" in reasons["large.png"]
    assert "empty" in reasons["empty.jpg"]
    assert "without an image" in reasons["lonely.json"]
    (note,) = run.notes
    assert note.startswith("8 left out, all listed in images/skipped.json: ")


def test_what_is_no_file_or_cannot_be_named_is_listed_too(tmp_path: Path) -> None:
    path = tmp_path / "pictures"
    (path / "inner").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(path / "inner" / "good.png")
    Image.new("RGB", (41, 30)).save(path / "nan.png")
    (path / "nan.json").write_text('{"angle": NaN}')
    (path / "gone.png").symlink_to(path / "nowhere.png")
    (path / "again").symlink_to(path / "inner")
    os.mkfifo(path / "pipe.png")
    shutil.copy(path / "inner" / "good.png", os.fsencode(path / "x") + b"\xff.png")
    vertical, _, skipped, _ = collect(tmp_path, vertical=str(path), general_count=0)
    assert [sample.extra["file"] for sample in vertical] == ["inner/good.png"]
    reasons = {entry["file"]: entry["reason"] for entry in skipped}
    assert set(reasons) == {"nan.png", "gone.png", "again", "pipe.png", "x\\udcff.png"}
    assert "NaN is no JSON number" in reasons["nan.png"]
    assert "leads nowhere" in reasons["gone.png"]
    assert "link to a folder" in reasons["again"]
    assert "no regular file" in reasons["pipe.png"]
    assert "not UTF-8" in reasons["x\\udcff.png"]


def test_folders_without_a_usable_image_are_errors(tmp_path: Path) -> None:
    empty = tmp_path / "nothing"
    with pytest.raises(UserError, match="not a folder"):
        collect(tmp_path, vertical=str(empty), general_count=0)
    empty.mkdir()
    with pytest.raises(UserError, match="it is empty"):
        collect(tmp_path, vertical=str(empty), general_count=0)
    (empty / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"no usable image.*a\.png"):
        collect(tmp_path, vertical=str(empty), general_count=0)
    with pytest.raises(UserError, match="corpus:in_cra"):
        collect(tmp_path, vertical="corpus:in_cra", general_count=0)
    with pytest.raises(UserError, match="corpus:everything"):
        collect(tmp_path, per_symbol=1, general="corpus:everything", general_count=1)


def test_a_general_folder_gives_its_annotated_pairs(tmp_path: Path) -> None:
    path = tmp_path / "general"
    path.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (32, 32), (ord(name), 0, 0)).save(path / f"{name}.png")
    good = {"question": "几只猫？", "answer": "3", "language": "zh", "task": "counting", "aliases": ["三"]}
    (path / "a.json").write_text(json.dumps({"qa": [good, {"question": "no answer"}, 7]}), "utf-8")
    (path / "b.json").write_text('{"qa": [{"question": "x", "answer": "y", "language": "fr"}]}', "utf-8")
    _, general, skipped, _ = collect(tmp_path, per_symbol=1, general=str(path), general_count=9)
    (one,) = general
    assert (one.task, one.language, one.answer, one.aliases) == ("counting", "zh", "3", ["三"])
    assert [message.text for message in one.messages] == ["几只猫？", "3"]
    assert sorted(entry["file"] for entry in skipped) == ["a.png", "a.png", "b.png", "c.png"]
    assert not any("http" in entry["reason"] for entry in skipped)
    (path / "a.json").write_text('{"qa": [{"question": "", "answer": ""}]}')
    with pytest.raises(UserError, match=r"images\.general: no question in"):
        collect(tmp_path, per_symbol=1, general=str(path), general_count=9)


@pytest.mark.parametrize(("total", "weights"), [(100, [3, 1]), (7, [1, 1, 1]), (0, [2, 5]), (4000, [3] * 10 + [1] * 5)])
def test_shares_sum_to_the_total_and_follow_the_weights(total: int, weights: list[int]) -> None:
    found = shares(total, weights)
    assert sum(found) == total
    for share, weight in zip(found, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) <= 1
