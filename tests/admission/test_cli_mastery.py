"""`open4ov admit mastery` on the tiny model: what it writes, that it goes on, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from open4ov.cli import app
from open4ov.errors import UserError
from open4ov.sample import Sample, assistant, user
from open4ov.store import ImageStore, read_samples, write_samples


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    sha = ImageStore(folder / "image-store").put(Image.new("RGB", (64, 64), "green"))
    made = [
        Sample(
            id=f"s{i}",
            source="test",
            task=f"t{i % 2}",
            images=[sha] if i % 2 else [],
            messages=[user(f"How many, {i}?", images=i % 2), assistant("seven")],
            answer=None if i == 5 else "seven",
        )
        for i in range(6)
    ]
    write_samples(folder / "samples.parquet", made)
    return folder


def admit(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["admit", "mastery", *map(str, arguments)], catch_exceptions=True)


def test_it_writes_grades_and_goes_on(data: Path, tiny_dir: Path, tmp_path: Path) -> None:
    given = (data, "--model", tiny_dir, "--out", tmp_path / "out", "--rollouts", 2, "--max-tokens", 4)
    first = admit(*given, "--json")
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["cost"]["now"]["rollouts"] == 10
    assert report["cost"]["now"]["images"] == 1
    assert 0 < report["cost"]["share_of_stage"] <= 1
    assert report["ungraded"] == {"has no reference answer": {"samples": 1, "ids": ["s5"]}}
    graded = read_samples(tmp_path / "out" / "graded.parquet")
    assert [s.id for s in graded] == [f"s{i}" for i in range(6)]
    assert {s.extra.get("graded_by") for s in graded[:5]} == {"rollouts"}
    again = admit(*given)
    assert again.exit_code == 0, again.output
    assert "0 responses sampled" in again.output
    assert "10 found in the book" in again.output
    assert read_samples(tmp_path / "out" / "graded.parquet") == graded
    assert (tmp_path / "out" / "report.txt").read_text() in again.output
    more = admit(*given[:-4], "--rollouts", 3, "--max-tokens", 4, "--json")
    assert json.loads(more.stdout)["cost"]["now"]["rollouts"] == 5
    later = admit(*given[:4], tmp_path / "later", *given[5:], "--earlier", tmp_path / "out", "--json")
    assert later.exit_code == 0, later.output
    assert sum(sum(row.values()) for row in json.loads(later.stdout)["transitions"].values()) == 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--verifier", "nowhere:nothing"], "--verifier: cannot find 'nowhere:nothing'"),
        (["--weight", "masterd=1"], "--weight masterd=1: there is no such level; did you mean 'mastered'?"),
        (["--weight", "mastered=-1"], "write LEVEL=NUMBER with a number of 0 or more"),
        (["--weight", "mastered"], "write LEVEL=NUMBER with a number of 0 or more"),
        (["--mastered-at", "0.1"], "--unmastered-at: 0.1 must be below --mastered-at = 0.1"),
        (["--most-rollouts", "2"], "--most-rollouts: 2 must be above --rollouts = 4"),
        (["--temperature", "0"], "--temperature: Input should be greater than 0"),
        (["--iteration", "2"], "--iteration: has no effect without --earlier"),
        (["--mastered-again", "0.5"], "--mastered-again: has no effect without --earlier"),
        (["--confidence", "0.8"], "--confidence: has no effect without --most-rollouts"),
        (["--earlier", "nowhere"], "--earlier nowhere: has no graded.parquet"),
    ],
)
def test_it_refuses(data: Path, tiny_dir: Path, tmp_path: Path, more: list[str], message: str) -> None:
    found = admit(data, "--model", tiny_dir, "--out", tmp_path / "out", *more)
    assert isinstance(found.exception, UserError), found.output
    assert message in str(found.exception)
    assert not (tmp_path / "out" / "graded.parquet").exists()


def test_a_set_or_model_that_is_not_there_is_said(data: Path, tiny_dir: Path, tmp_path: Path) -> None:
    for given in ((tmp_path / "none", "--model", tiny_dir), (data, "--model", tmp_path / "none")):
        found = admit(*given, "--out", tmp_path / "out")
        assert isinstance(found.exception, UserError), found.output


def test_it_computes_in_the_precision_that_is_asked_for(data: Path, tiny_dir: Path, tmp_path: Path) -> None:
    told = (data, "--model", tiny_dir, "--rollouts", 1, "--max-tokens", 2, "--book", tmp_path / "book", "--json")
    found = {
        name: json.loads(admit(*told, "--out", tmp_path / name, "--precision", name, "--device", "cpu").stdout)
        for name in ("fp32", "bf16")
    }
    assert [report["precision"] for report in found.values()] == ["fp32", "bf16"]
    assert found["bf16"]["model"] != found["fp32"]["model"], "rollouts in another precision are another model's"
    assert found["bf16"]["cost"]["now"]["rollouts"] == 5
