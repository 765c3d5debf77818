"""`open4ov report`: the commands, as a user meets them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from finished_runs import QUESTIONS, finished_run

from open4ov import cli
from open4ov.evaluate.scores import read_answers

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def open4ov(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["open4ov", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def made(folder: Path, seed: int) -> Path:
    folder.mkdir()
    finished_run(folder, seed)
    (folder / "run.json").write_text(json.dumps({"recipe": {"name": folder.name}}))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that were asked the same. Do not write into them."""
    folder = tmp_path_factory.mktemp("runs")
    return made(folder / "a", 0), made(folder / "b", 1)


@pytest.mark.slow
def test_a_report_of_a_run_directory(runs: tuple[Path, Path], open4ov: Run, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    code, said, told = open4ov("report", "make", runs[0], "--out", out)
    assert (code, said) == (0, f"{out}\n")
    assert "<b>This report is partial.</b>" in out.read_text()
    assert "partial: not finished: probe" not in told
    assert "partial: made by open4ov an unnamed version" in told


def test_two_runs_side_by_side(runs: tuple[Path, Path], open4ov: Run, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    code, said, _ = open4ov("report", "compare", *runs, "--model", "base", "--with", "dpo", "--json", "--out", out)
    assert code == 0
    rows = {row["name"]: row for row in json.loads(said)["rows"]}
    mine, theirs = (
        {each.id: each.right[0] for each in read_answers(run / f"evaluate_{model}" / "answers.parquet")}
        for run, model in zip(runs, ("base", "dpo"), strict=True)
    )
    naming = [theirs[key] - mine[key] for key in mine if key.startswith("naming/")]
    assert rows["naming"]["difference"]["score"] == pytest.approx(sum(naming) / len(naming), abs=1e-6)
    assert rows["naming"]["difference"]["low"] <= rows["naming"]["difference"]["score"]
    assert "Two runs compared" in out.read_text()
    code, said, _ = open4ov("report", "compare", *runs, "--out", out)
    assert code == 0
    assert said.startswith(f"A: a (seed 0), DPO\nB: b (seed 0), DPO\n\nB minus A, paired on {QUESTIONS} questions:")
    assert "| suite | B minus A | interval |" in said
    assert "| general ability |" in said


@pytest.mark.slow
def test_figures_as_files(runs: tuple[Path, Path], open4ov: Run, tmp_path: Path) -> None:
    code, said, _ = open4ov("report", "export", runs[0], "--out", tmp_path / "figures", "--format", "svg")
    assert code == 0
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert sorted(Path(line).name for line in said.split()) == written
    assert {"radar.svg", "abilities.svg", "lengths.svg", "labels-domain.svg", "rl-tasks.svg", "times.svg"} <= set(
        written
    )
    assert all(name.endswith(".svg") for name in written)


@pytest.mark.slow
def test_what_the_user_can_mend(runs: tuple[Path, Path], open4ov: Run, tmp_path: Path) -> None:
    code, _, told = open4ov("report", "make", tmp_path)
    assert code == 2
    assert "is no run directory" in told
    (tmp_path / "file").write_text("")
    code, _, told = open4ov("report", "export", runs[0], "--out", tmp_path / "file" / "figures")
    assert code == 2
    assert "cannot be written" in told
    code, _, told = open4ov("report", "make", runs[0], "--out", tmp_path / "file" / "page.html")
    assert code == 2
    assert "cannot be written" in told
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "run.json").write_text("{}")
    code, _, told = open4ov("report", "export", empty, "--out", tmp_path / "figures")
    assert code == 2
    assert "nothing yet" in told
