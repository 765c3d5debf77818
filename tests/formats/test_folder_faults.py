"""Annotations and links in a folder of images that cannot be used: listed with the reason, and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from open4ov.data.images import folder as collect
from open4ov.formats.convert import import_set
from open4ov.sample import Sample
from open4ov.store import ImageStore, read_samples, write_samples

Read = Callable[[Path], tuple[dict[str, Sample], dict[str, str]]]


def imported(source: Path) -> tuple[dict[str, Sample], dict[str, str]]:
    out = source.parent / "set"
    import_set(source, out)
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text("utf-8").splitlines()]
    found = {sample.extra["file"]: sample for sample in read_samples(out / "samples.parquet")}
    return found, {entry["file"]: entry["reason"] for entry in listed}


def collected(source: Path) -> tuple[dict[str, Sample], dict[str, str]]:
    skipped: list[dict[str, str]] = []
    samples = list(collect(source, 10**6, ImageStore(source.parent / "store"), skipped))
    write_samples(source.parent / "samples.parquet", samples)
    found = {sample.extra["file"]: sample for sample in read_samples(source.parent / "samples.parquet")}
    return found, {entry["file"]: entry["reason"] for entry in skipped}


@pytest.fixture(params=[imported, collected])
def read(request: pytest.FixtureRequest) -> Read:
    return request.param


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8, 6), (number * 40 + len(folder.name), 0, 0)).save(folder / f"{name}.png")
    return folder


def test_annotations_that_cannot_be_stored_are_listed(tmp_path: Path, read: Read) -> None:
    texts = {
        "deep": "[" * 100_000,
        "deeper": '{"a": ' + "[" * 195 + "]" * 195 + "}",  # can be written, and not read again with all around it
        "half": '{"a": "\\ud800"}',
        "key": '{"\\udfff": 1}',
        "huge": '{"a": 1e999}',
        "nan": '{"a": NaN}',
        "good": '{"a": ' + "[" * 150 + "]" * 150 + "}",
    }
    source = pictures(tmp_path / "in", *texts)
    for name, text in texts.items():
        (source / f"{name}.json").write_text(text)
    found, refused = read(source)
    assert set(found) == {"good.png"}
    assert found["good.png"].scene == json.loads(texts["good"])
    assert {name: word in refused[f"{name}.png"] for name, word in (
        ("deep", "nested too deeply"), ("deeper", "nested too deeply"), ("half", "half of a character"),
        ("key", "half of a character"), ("huge", "cannot be read"), ("nan", "NaN is no JSON number"),
    )} == dict.fromkeys(("deep", "deeper", "half", "key", "huge", "nan"), True)  # fmt: skip


def test_links_do_not_lead_out(tmp_path: Path, read: Read) -> None:
    outside = pictures(tmp_path / "outside", "other")
    (outside / "secret.json").write_text('{"secret": 1}')
    source = pictures(tmp_path / "in", "a", "b", "c")
    (source / "link.png").symlink_to(outside / "other.png")
    (source / "a.json").symlink_to(outside / "secret.json")
    (source / "shared.txt").write_text('{"shared": 1}')
    (source / "b.json").symlink_to(source / "shared.txt")
    found, refused = read(source)
    assert set(found) == {"b.png", "c.png"}
    assert found["b.png"].scene == {"shared": 1}
    assert refused["link.png"] == "a link that leads out of the folder; put the file itself here"
    assert refused["a.json"] == refused["link.png"]
    assert refused["a.png"] == "its annotation a.json is a link that leads out of the folder"


def test_a_row_that_is_nested_too_deeply_to_be_read_again_is_listed(tmp_path: Path) -> None:
    rows = [{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "more": more}
            for more in (json.loads("[" * 250 + "]" * 250), 1)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = import_set(tmp_path / "rows.jsonl", tmp_path / "set")
    assert (done.samples, done.refused) == (1, 1)
    assert len(read_samples(tmp_path / "set" / "samples.parquet")) == 1
