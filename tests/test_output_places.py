"""Where commands write: what stands there stays, two writers do not meet, and a place that cannot be is said."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from test_bad_input import Fails, fails
from test_cli import Inside, inside

from open4ov.errors import UserError
from open4ov.formats.convert import export_set, import_set
from open4ov.store import read_samples

__all__ = ["fails", "inside"]  # the fixtures


def pictures(folder: Path, count: int = 1) -> Path:
    (folder / "in").mkdir()
    for number in range(count):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / "in" / f"{number}.png")
    return folder / "in"


# ---------------------------------------------------------------------------------------------- places that cannot be


@pytest.mark.parametrize(
    "arguments",
    [
        ("labels", "review", "--out", "FILE"),
        ("labels", "review", "--out", "FILE/x"),
        ("labels", "apply", "reviewed/review.csv", "--out", "FOLDER"),
        ("labels", "apply", "reviewed/review.csv", "--out", "FILE/x.yaml"),
        ("data", "import", "in", "--out", "/proc/x"),
        ("data", "import", "in", "--out", "FILE/x"),
        ("data", "export", "set", "--format", "messages", "--out", "FILE/x"),
        ("data", "export", "set", "--format", "messages", "--out", "/proc/x"),
        ("data", "reviewed", "set", "--out", "FILE/x"),
        ("data", "documents", "x.pdf", "--out", "FILE/x"),
    ],
)
def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, fails: Fails, arguments: tuple[str, ...]) -> None:
    import_set(pictures(tmp_path), tmp_path / "set")
    (tmp_path / "FILE").write_text("")
    (tmp_path / "FOLDER").mkdir()
    from open4ov.data import labels, labels_expand, labels_review

    labels_review.write(tmp_path / "reviewed", labels.load(None), labels_expand.Expanded())
    (tmp_path / "x.pdf").write_bytes(b"%PDF-1.4")
    told = fails("", *arguments)
    assert told.count("\n") == 1
    assert "--out" in told
    assert arguments[-1] in told


# ---------------------------------------------------------------------------------------------- what stands there


def test_an_edited_review_of_labels_is_left_alone(tmp_path: Path, inside: Inside) -> None:
    assert inside("labels", "review", "--out", tmp_path).returncode == 0
    assert inside("labels", "review", "--out", tmp_path).returncode == 0  # the same again is no other file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["review.csv", "review.html"]
    edited = (tmp_path / "review.csv").read_text("utf-8-sig").replace(",keep,", ",drop,", 1)
    (tmp_path / "review.csv").write_text(edited, "utf-8")
    done = inside("labels", "review", "--out", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "review.csv").read_text("utf-8") == edited
    assert (tmp_path / "review-2.csv").is_file()
    assert (tmp_path / "review-2.html").is_file()
    assert str(tmp_path / "review-2.csv") in done.stdout


@pytest.mark.parametrize("name", ["../../evil", "a/b", "a\\b", "..", "", "a\nb", "a" * 300])
def test_an_exports_name_is_one_part_of_a_path(tmp_path: Path, name: str) -> None:
    import_set(pictures(tmp_path), tmp_path / "set")
    with pytest.raises(UserError, match="--name"):
        export_set(tmp_path / "set", tmp_path / "a" / "b" / "out", "vlmevalkit", name=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "set"]


# ---------------------------------------------------------------------------------------------- two writers


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """What another process that writes there does."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize(
    ("lock", "arguments"),
    [
        ("out/.lock", ("data", "import", "in", "--out", "out")),
        (".part-out.lock", ("data", "export", "set", "--format", "messages", "--out", "out")),
        (".part-out.lock", ("data", "reviewed", "set", "--out", "out")),
        ("out/.lock", ("data", "documents", "x.pdf", "--out", "out")),
    ],
)
def test_a_second_writer_is_turned_away(tmp_path: Path, fails: Fails, lock: str, arguments: tuple[str, ...]) -> None:
    import_set(pictures(tmp_path), tmp_path / "set")
    (tmp_path / "x.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / ".part-out").mkdir()
    (tmp_path / ".part-out" / "half").write_text("")  # what the other one has written so far
    with held(tmp_path / lock):
        assert "in use by" in fails("out: ", *arguments)
    assert (tmp_path / ".part-out" / "half").exists()


def test_two_imports_at_once_in_processes(tmp_path: Path) -> None:
    """One ends well and the other is turned away, while the first writes or after it: the set is whole."""
    pictures(tmp_path, 40)
    command = [sys.executable, "-m", "open4ov.cli", "data", "import", str(tmp_path / "in"), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pair = [
        subprocess.Popen([*command, str(tmp_path / "out")], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [one.communicate()[1] for one in pair]
    assert sorted(one.returncode for one in pair) == [0, 2]
    assert not any("Traceback" in text for text in said)
    assert len(read_samples(tmp_path / "out" / "samples.parquet")) == 40


def test_an_export_leaves_no_lock_beside_it(tmp_path: Path) -> None:
    import_set(pictures(tmp_path), tmp_path / "set")
    export_set(tmp_path / "set", tmp_path / "out", "parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "set"]
    assert ".lock" not in {path.name for path in (tmp_path / "out").iterdir()}


# ---------------------------------------------------------------------------------------------- nothing to read


def test_documents_of_which_none_can_be_read(tmp_path: Path, fails: Fails) -> None:
    pytest.importorskip("pypdfium2", reason="needs the extra: pip install 'open4ov[documents]'")
    command = ("data", "documents", "/nonexist.pdf", "--quiet", "--out", "out")
    told = fails("no document could be read: /nonexist.pdf: no such file", *command)
    assert "out/report.json" in told
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"]["left out"] == 1
