"""Data sets of others as the start of construction: images once, their questions word for word, all linked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from test_collect_images import collect

from open4ov.corpora import in_car
from open4ov.data.construct import make
from open4ov.errors import UserError
from open4ov.formats.convert import import_set
from open4ov.recipe import DataSection
from open4ov.sample import Sample
from open4ov.store import ImageStore, read_samples


@pytest.fixture
def open_data(tmp_path: Path) -> Path:
    """A LLaVA file as it is found in the open, imported."""
    source = tmp_path / "open"
    source.mkdir()
    for name, colour in (("a", 10), ("b", 90)):
        Image.new("RGB", (20, 10), (colour, 0, 0)).save(source / f"{name}.png")
    rows = [
        {"image": "a.png", "conversations": [
            {"from": "human", "value": "<image>\n  What colour？ "}, {"from": "gpt", "value": "Dark red. "}]},
        {"image": "b.png", "license": "CC0", "conversations": [
            {"from": "human", "value": "<image>\n这是什么颜色？"}, {"from": "gpt", "value": "红色"}]},
        {"image": "a.png", "conversations": [
            {"from": "human", "value": "<image>\nHow wide?"}, {"from": "gpt", "value": "20"}]},
        {"image": "a.png", "conversations": [
            {"from": "human", "value": "<image>\nOne?"}, {"from": "gpt", "value": "1"},
            {"from": "human", "value": "Two?"}, {"from": "gpt", "value": "2"}]},
        {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]},
    ]  # fmt: skip
    (source / "train.json").write_text(json.dumps(rows))
    import_set(source, tmp_path / "set")
    return tmp_path / "set"


def test_as_the_vertical_it_gives_each_image_once_with_its_questions(open_data: Path, tmp_path: Path) -> None:
    vertical, _, skipped, run = collect(tmp_path, vertical=str(open_data), general_count=0)
    samples = read_samples(open_data / "samples.parquet")
    first, second, whole = vertical
    assert first.lineage == [samples[0].id, samples[2].id]
    beside = {"language": "en", "task": "imported"}
    assert first.scene == {"qa": [
        {"question": "  What colour？ ", "answer": "Dark red. ", **beside, "sample": samples[0].id},
        {"question": "How wide?", "answer": "20", **beside, "sample": samples[2].id},
    ]}  # fmt: skip
    assert (second.scene or {})["qa"][0]["language"] == "zh"
    assert second.extra["fields"]["license"] == "CC0"
    assert second.steps[0].place == "row 2 (line 1)"
    assert (whole.id, whole.messages, whole.answer) == (samples[3].id, samples[3].messages, "2")
    assert {entry["file"]: entry["reason"] for entry in skipped}[samples[4].id].startswith("text alone")
    assert len(skipped) == 1
    assert all(run.images.get(sha) for sample in vertical for sha in sample.images)
    assert not first.messages


def test_as_the_general_set_it_gives_its_conversations(open_data: Path, tmp_path: Path) -> None:
    _, general, skipped, _ = collect(tmp_path, vertical=str(open_data), general=str(open_data), general_count=9)
    samples = read_samples(open_data / "samples.parquet")
    assert [sample.messages for sample in general] == [sample.messages for sample in samples]
    assert [sample.answer for sample in general] == ["Dark red. ", "红色", "20", "2", "Hi"]
    assert len(skipped) == 1, "the vertical's"


def test_without_an_image_it_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "x"}]}\n')
    import_set(tmp_path / "rows.jsonl", tmp_path / "set")
    with pytest.raises(UserError, match="has an image and an answer"):
        collect(tmp_path, vertical=str(tmp_path / "set"), general_count=0)


def test_its_questions_are_labelled_judged_and_kept_word_for_word(tmp_path: Path) -> None:
    """An in-car picture whose questions came from outside: the catalog asks those, and all steps are run."""
    pictures, store = tmp_path / "pictures", ImageStore(tmp_path / "store")
    pictures.mkdir()
    item = next(iter(in_car.items("train", 1, 0, ["en"])))
    drawn = next(iter(in_car.pictures("train", 1, 0)))
    drawn.images[0].save(pictures / "a.png")
    scene = drawn.store(store).scene
    (pictures / "a.json").write_text(json.dumps(scene))
    import_set(pictures, tmp_path / "set")
    (image,) = read_samples(tmp_path / "set" / "samples.parquet")
    vertical, _, _, run = collect(tmp_path, vertical=str(tmp_path / "set"), general_count=0)
    assert (image.images, image.scene) == (vertical[0].images, vertical[0].scene)
    result = make(vertical, DataSection(inject_defects=0.0), run.images)
    assert item.sample.source
    assert result.samples
    kept: Sample = result.samples[0]
    assert kept.labels
    assert kept.lineage == [image.id, vertical[0].id]
    assert [step.stage for step in kept.steps][:1] == ["import"]
