"""The life of a sample: told from a run, from an import, and from files that hold less than they might."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from open4ov.errors import UserError
from open4ov.sample import Label, Sample, Step, Vote, assistant, user
from open4ov.store import write_json, write_samples
from open4ov.trace import lines, trace


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Files as a run leaves them: an image, a sample made of it and kept, one rejected."""
    image = Sample(id="image-1", source="folder", task="image", images=["a" * 64], extra={"file": "x/cat.png"})
    kept = Sample(
        id="kept-1234",
        source="folder",
        task="naming",
        images=["a" * 64],
        messages=[user("What?", 1), assistant("A cat.\nYes.")],
        answer="cat",
        labels=[Label(axis="domain", l1="animals", l2="pets", score=0.5)],
        topics=["animals ~ pets ~ naming"],
        density={"ocr": 0.25, "ids": 0.2},
        budget=3,
        votes=[Vote(judge="m1", score=1, reason="fits"), Vote(judge="m2", score=None, reason="no usable answer: 500")],
        checks={"accuracy": True, "completeness": False},
        lineage=["image-1"],
        steps=[Step(stage="synthesize", by="m0", prompt="synthesize@3", tokens=812, cost=0.002)],
        extra={"check_reasons": {"completeness": "the colour is missing"}, "rejected_by": "verification"},
    )
    write_samples(tmp_path / "images" / "samples.parquet", [image])
    write_json(tmp_path / "images" / "skipped.json", [{"file": "y.png", "reason": "empty"}])
    write_samples(tmp_path / "data" / "rejected.parquet", [kept])
    report = {"skipped": [{"image": "image-1", "step": "scoring density", "reason": "truncated JSON"}, "odd"]}
    write_json(tmp_path / "data" / "report.json", report)
    (tmp_path / "other.parquet").write_bytes(b"no parquet")
    return tmp_path


def test_every_step_is_told_parents_first(run: Path) -> None:
    told = [(event["sample"], event["stage"], event["what"]) for event in trace(run, "kept-1234")]
    assert told == [
        ("image-1", "source", "folder, file x/cat.png"),
        ("image-1", "left out", "scoring density: truncated JSON"),
        ("kept-1234", "source", "folder"),
        (
            "kept-1234",
            "synthesize",
            "by m0, prompt synthesize@3, tokens 812, cost 0.002, not known whether fresh or kept",
        ),
        ("kept-1234", "cost", "812 tokens, 0.002 in the currency of the prices"),
        ("kept-1234", "made from", "image-1"),
        ("kept-1234", "text", "user: What?"),
        ("kept-1234", "text", "assistant: A cat. Yes."),
        ("kept-1234", "text", "answer: cat"),
        ("kept-1234", "label", "domain: animals / pets (0.5)"),
        ("kept-1234", "topic", "animals ~ pets ~ naming"),
        ("kept-1234", "density", "ocr 0.25, ids 0.2; budget 3"),
        ("kept-1234", "vote", "m1 said 1: fits"),
        ("kept-1234", "vote", "m2 abstained: no usable answer: 500"),
        ("kept-1234", "check", "accuracy holds"),
        ("kept-1234", "check", "completeness fails: the colour is missing"),
        ("kept-1234", "rejected", "by verification"),
    ]
    assert next(lines(trace(run, "kept"))) == "image-1:"


def test_what_was_told_is_not_told_again_and_what_is_new_is(run: Path) -> None:
    known = len(trace(run, "image-1"))
    image = Sample(id="image-1", source="folder", task="image", images=["a" * 64], mastery="partial", pass_rate=0.5)
    image.extra["file"] = "x/cat.png"
    write_samples(run / "admission" / "samples.parquet", [image])
    events = trace(run, "image-1")
    assert len(events) == known + 1
    assert [event["what"] for event in events if event["stage"] == "mastery"] == ["partial, pass rate 0.5"]


def test_a_missing_parent_and_a_circle_are_told(tmp_path: Path) -> None:
    samples = [
        Sample(id="aaaa", source="x", task="t", lineage=["bbbb"]),
        Sample(id="bbbb", source="x", task="t", lineage=["aaaa", "gone"]),
    ]
    write_samples(tmp_path / "samples.parquet", samples)
    told = {(event["sample"], event["stage"]) for event in trace(tmp_path, "aaaa")}
    assert ("gone", "unknown") in told
    assert {"aaaa", "bbbb"} < {sample for sample, _ in told}


def test_ids_that_are_nobodys_or_several(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(UserError, match="nobody: no sample in"):
        trace(run, "nobody")
    with pytest.raises(UserError, match="ke: no sample in"):
        trace(run, "ke")
    write_samples(run / "more.parquet", [Sample(id="kept-5678", source="x", task="t")])
    with pytest.raises(UserError, match="kept: 2 ids begin so"):
        trace(run, "kept")
    with pytest.raises(UserError, match="no file of samples below it"):
        trace(tmp_path_factory.mktemp("empty"), "x")


def open4ov(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "open4ov.cli", "data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_in_out_and_trace_on_the_command_line(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (5, 5, 5)).save(tmp_path / "a.png")
    row = {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "!"}]}
    (tmp_path / "open.json").write_text(json.dumps([row, {"conversations": []}, {"conversations": 1}]))
    done = open4ov("import", tmp_path / "open.json", "--out", tmp_path / "set")
    assert done.returncode == 0, done.stderr
    assert "2 samples; format llava, by `conversations`" in done.stdout
    assert "1 refused, all listed in" in done.stderr
    assert "open.json, row 3 (line 1): it has no list `conversations`" in done.stderr
    done = open4ov("export", tmp_path / "set", "--format", "vlmevalkit", "--out", tmp_path / "tsv", "--json")
    assert json.loads(done.stdout) == {
        "format": "vlmevalkit", "samples": 1,
        "left_out": {"a TSV row holds one question about all of its images, and one answer": 1},
    }  # fmt: skip
    assert (tmp_path / "tsv" / "set.tsv").is_file()
    found = open4ov("trace", tmp_path / "set", "0000")
    assert found.returncode == 2
    assert found.stderr.startswith("open4ov: 0000: no sample in")
