"""Versioned data sets: what a version says of itself, how it stays as it is, and what changed between two."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4ov import cli, store, trace, version_diff, versions
from open4ov.errors import UserError
from open4ov.formats.convert import export_set, located
from open4ov.sample import Label, Sample, Step, assistant, user
from open4ov.store import ImageStore, read_samples, write_samples


def sample(name: str, answer: str = "red", images: tuple[str, ...] = (), **about: object) -> Sample:
    asked = [user(f"What is {name}?", images=len(images)), assistant(answer)]
    return Sample(id=name, source="made", task="naming", messages=asked, images=list(images), answer=answer, **about)  # pyright: ignore[reportArgumentType]


def pictures(root: Path, count: int) -> tuple[ImageStore, list[str]]:
    images = ImageStore(root / "image-store")
    return images, [images.put(Image.new("RGB", (32, 32), (10 * i, 0, 200))) for i in range(count)]


def test_a_version_says_what_it_is_and_gives_back_its_samples(tmp_path: Path) -> None:
    images, names = pictures(tmp_path / "run", 3)
    label = Label(axis="domain", l1="Automotive", l2="Road signs")
    given = [
        sample("a", images=(names[0],), labels=[label]),
        sample("b", images=(names[0], names[1]), language="zh", labels=[label, label]),
        sample("c", split="val"),
    ]
    parents = [versions.Parent(name="data/samples.parquet", id="0123", samples=3)]
    about = versions.Version(name="stable", parents=parents, ratio={"new": 0.25, "stable": 0.75}, tree="4 abc")
    made = versions.write(tmp_path / "v1", iter(given), about, images)
    assert versions.read(tmp_path / "v1") == made
    assert versions.samples(tmp_path / "v1") == given
    assert made.samples == 3
    assert made.images == 2
    assert made.splits == {"train": 2, "val": 1}
    assert made.languages == {"en": 2, "zh": 1}
    assert made.labels == {"domain": {"Automotive": 2}}
    assert made.sha256 == hashlib.sha256((tmp_path / "v1" / "samples.parquet").read_bytes()).hexdigest()
    assert not images.path(names[2]).samefile(tmp_path)
    assert not versions.store(tmp_path / "v1").path(names[2]).exists()
    assert versions.store(tmp_path / "v1").get(names[1]).size == (32, 32)
    assert os.stat(images.path(names[1])).st_nlink == 2  # no second copy of the bytes
    card = (tmp_path / "v1" / "README.md").read_text()
    assert "data/samples.parquet" in card
    assert "0.25 of the tokens from `new`" in card
    assert "Automotive" in card
    assert "path: samples.parquet" in card
    with pytest.raises(UserError, match="is there already"):
        versions.write(tmp_path / "v1", given, about, images)
    assert versions.samples(tmp_path / "v1") == given


def test_equal_sets_have_equal_ids_and_equal_bytes(tmp_path: Path) -> None:
    given = [sample(str(i)) for i in range(40)]
    first = versions.write(tmp_path / "a", given, versions.Version(name="one"))
    again = versions.write(tmp_path / "b", given, versions.Version(name="one"))
    mixed = versions.describe(random.Random(1).sample(given, 40), "other")
    assert first == again
    assert mixed.id == first.id == versions.digest(given)
    assert (tmp_path / "a" / "samples.parquet").read_bytes() == (tmp_path / "b" / "samples.parquet").read_bytes()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["answer", "split", "labels", "language", "task", "images", "messages", "aliases"]),
    st.integers(0, 3),
)
def test_an_id_changes_with_what_a_sample_is(field: str, place: int) -> None:
    given = [sample(str(i)) for i in range(4)]
    other = {
        "answer": "blue",
        "split": "val",
        "labels": [Label(axis="domain", l1="Automotive")],
        "language": "zh",
        "task": "colour",
        "images": ["0" * 64],
        "messages": [user("?"), assistant("red")],
        "aliases": ["crimson"],
    }
    changed = [*given]
    changed[place] = given[place].model_copy(update={field: other[field]})
    assert versions.digest(changed) != versions.digest(given)
    # what a model makes of it, or what it cost, is not what it is
    graded = [one.model_copy(update={"pass_rate": 0.5, "steps": [Step(stage="judge", cost=1.0)]}) for one in given]
    assert versions.digest(graded) == versions.digest(given)


def test_a_damaged_version_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    versions.write(folder, [sample("a"), sample("b")], versions.Version(name="stable"))
    path = folder / "samples.parquet"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"v1/samples.parquet: is damaged"):
        versions.samples(folder)
    write_samples(path, [sample("a"), sample("other")])  # readable, and of another set
    with pytest.raises(UserError, match=r"v1/samples.parquet: is damaged"):
        versions.check(folder)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        versions.check(folder)
    (folder / "version.json").write_text('{"open4ov": "version-1", "name": 3}')
    with pytest.raises(UserError, match=r"version.json: name"):
        versions.read(folder)
    (folder / "version.json").write_text("{")
    with pytest.raises(UserError, match="is no version"):
        versions.read(folder)


def test_a_version_that_cannot_be_finished_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, names = pictures(tmp_path / "run", 1)
    missing = "f" * 64
    with pytest.raises(UserError, match=f"sample b: its picture .*{missing}"):
        versions.write(
            tmp_path / "v1",
            [sample("a", images=(names[0],)), sample("b", images=(missing,))],
            versions.Version(name="stable"),
            images,
        )
    assert not (tmp_path / "v1").exists()
    with pytest.raises(UserError, match="its record says 1234"):
        versions.write(tmp_path / "v1", [sample("a")], versions.Version(name="stable", id="1234"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_row", full)
    with pytest.raises(UserError, match="the disk is full"):
        versions.write(tmp_path / "v1", [sample("a")], versions.Version(name="stable"))
    assert not (tmp_path / "v1").exists()
    assert not list(tmp_path.glob(".part*"))


def test_a_version_is_found_by_the_data_commands(tmp_path: Path) -> None:
    """In a run, two folders below its image store; and alone, with its own."""
    images, names = pictures(tmp_path / "run", 1)
    given = [sample("aaaa1", images=(names[0],), lineage=["bbbb2"])]
    parents = [versions.Parent(name="data", id="feed", samples=1)]
    about = versions.Version(name="knowledge", parents=parents)
    versions.write(tmp_path / "run" / "sets" / "knowledge", given, about)
    versions.write(tmp_path / "alone", given, about, images)
    for folder in (tmp_path / "run" / "sets" / "knowledge", tmp_path / "alone"):
        path, found = located(folder)
        assert path == folder / "samples.parquet"
        assert found.get(names[0]).size == (32, 32)
        events = trace.trace(folder, "aaaa1")
        said = [event["what"] for event in events if event["stage"] == "version"]
        assert said == [f"in knowledge {versions.read(folder).id}, 1 samples, made from data feed"]
        assert any(event["sample"] == "bbbb2" for event in events)  # the parent, named though it is in no file
    done = export_set(tmp_path / "alone", tmp_path / "llava", "llava")
    assert done.samples == 1


def test_diff_counts_what_changed() -> None:
    """Against counts worked out by hand."""
    road = [Label(axis="domain", l1="Automotive", l2="Road signs")]
    old = [sample("a", labels=road), sample("b"), sample("c", language="zh"), sample("d", pass_rate=0.0)]
    new = [
        sample("a", labels=road, answer="blue"),  # answer and messages
        sample("b", split="val"),
        sample("d", pass_rate=1.0),  # graded anew: the same sample
        sample("e", labels=road),
        sample("f", language="zh"),
    ]
    found = version_diff.diff(old, new)
    assert {key: found[key] for key in ("added", "removed", "changed", "kept")} == {
        "added": 2,
        "removed": 1,
        "changed": 2,
        "kept": 1,
    }
    assert found["fields"] == {"answer": 1, "messages": 1, "split": 1}
    assert found["by"]["language"] == {
        "en": {"added": 1, "removed": 0, "changed": 2},
        "zh": {"added": 1, "removed": 1, "changed": 0},
    }
    assert found["by"]["label"]["domain: Automotive ~ Road signs"] == {"added": 1, "removed": 0, "changed": 1}
    assert found["by"]["label"]["(no label)"] == {"added": 1, "removed": 1, "changed": 1}
    assert [one["id"] for one in found["examples"]["removed"]] == ["c"]
    assert sum(map(len, found["examples"].values())) == 5
    text = version_diff.to_text(found)
    assert "2 added, 1 removed, 2 changed, 1 kept" in text
    assert "answer (1)" in text
    with pytest.raises(ValueError, match="twice"):
        version_diff.diff(iter(old), new)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.integers(0, 20), st.integers(0, 2)), st.dictionaries(st.integers(0, 20), st.integers(0, 2)))
def test_diff_is_that_of_dictionaries(old: dict[int, int], new: dict[int, int]) -> None:
    before, after = ([sample(str(k), answer=str(v)) for k, v in one.items()] for one in (old, new))
    found = version_diff.diff(before, after)
    both = old.keys() & new.keys()
    assert found["added"] == len(new.keys() - both)
    assert found["removed"] == len(old.keys() - both)
    assert found["changed"] == sum(old[key] != new[key] for key in both)
    assert found["kept"] == len(both) - found["changed"]


def test_the_page_escapes_and_shows_pictures(tmp_path: Path) -> None:
    images, names = pictures(tmp_path, 1)
    evil = sample("a", answer="<script>alert(1)</script>", images=(names[0],))
    gone = sample("b", images=("f" * 64,))
    html = version_diff.page(version_diff.diff([], [evil, gone]), "<b>old</b>", "new", images)
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    assert "<b>old" not in html
    assert html.count("data:image/png;base64,") == 1
    assert "the picture is not here" in html
    assert "http" not in html.replace("http-equiv", "")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["open4ov", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, names = pictures(tmp_path / "import", 2)
    given = [sample("a", images=(names[0],)), sample("b", images=(names[1],), split="val")]
    write_samples(tmp_path / "import" / "samples.parquet", given)
    assert run(monkeypatch, "data", "version", tmp_path / "import", "--out", tmp_path / "v1", "--name", "stable") == 0
    first = versions.read(tmp_path / "v1")
    assert first.id in capsys.readouterr().out
    assert first.parents == [versions.Parent(name="import", id=first.id, samples=2)]
    code = run(monkeypatch, "data", "version", tmp_path / "v1", "--out", tmp_path / "v2", "--split", "train", "--json")
    assert code == 0
    second = versions.Version.model_validate_json(capsys.readouterr().out)
    assert second.parents == [versions.Parent(name="stable", id=first.id, samples=2)]
    assert second.samples == 1
    assert run(monkeypatch, "data", "diff", tmp_path / "v1", tmp_path / "v2", "--out", tmp_path / "d", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["removed"], found["kept"]) == (1, 1)
    assert json.loads((tmp_path / "d" / "diff.json").read_text()) == found
    assert f"stable {first.id}" in (tmp_path / "d" / "diff.html").read_text()
    assert run(monkeypatch, "data", "diff", tmp_path / "v1", tmp_path / "v1") == 0
    assert capsys.readouterr().out.startswith("0 added, 0 removed, 0 changed, 2 kept")
    assert run(monkeypatch, "data", "version", tmp_path / "v1", "--out", tmp_path / "v3", "--split", "test") == 2
    assert "holds no sample of split test" in capsys.readouterr().err
    assert not (tmp_path / "v3").exists()
    assert run(monkeypatch, "data", "version", tmp_path / "v1", "--out", tmp_path / "v2") == 2
    assert read_samples(tmp_path / "v2" / "samples.parquet") == given[:1]
    tree = tmp_path / "nothing.yaml"
    assert run(monkeypatch, "data", "version", tmp_path / "v1", "--out", tmp_path / "v4", "--labels", tree) == 2


@pytest.mark.slow
def test_a_large_version_is_not_held_in_memory(tmp_path: Path) -> None:
    """200 k samples of 2 kB each pass in less memory than they take: 400 MB of text, below 250 MB above the start."""
    script = """
import resource, sys
from pathlib import Path
from open4ov import version_diff, versions
from open4ov.sample import Sample, assistant, user

def some():
    for i in range(200_000):
        said = [user("x" * 1000), assistant("y" * 1000 + str(i))]
        yield Sample(id=str(i), source="made", task="naming", messages=said)

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = Path(sys.argv[1])
versions.write(out, some(), versions.Version(name="large"))
version_diff.diff(versions.Stored(out / "samples.parquet"), versions.Stored(out / "samples.parquet"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "v")], capture_output=True, text=True, check=True, timeout=600
    )
    assert int(done.stdout) < 250
