"""`open4ov eval` and `open4ov compare` from the command line: what they print, refuse and leave behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from endpoint import endpoint
from eval_files import mcq, tsv

from open4ov import cli


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Gives exit code, stdout and stderr of a command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["open4ov", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_an_endpoint_on_a_file_of_ones_own(call, tmp_path: Path) -> None:
    path = tsv(tmp_path / "mine.tsv", mcq(4))
    with endpoint(lambda *_: "A") as server:
        mine = ("eval", server.url, "--model", "m", "--data", str(path), "--suite", "mine", "--type", "mcq")
        code, out, err = call(*mine, "--out", "a", "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["suites"]["mine"]["score"] == 0.5
        code, out, _ = call(*mine, "--out", "a")
        assert "0 items asked now, 4 answers from before" in out
        assert len(server.bodies) == 4
    with endpoint(lambda *_: "B") as server:
        mine = ("eval", server.url, "--model", "n", "--data", str(path), "--suite", "mine", "--type", "mcq")
        code, out, err = call(*mine, "--out", "b", "--against", "a")
    assert code == 0, err
    assert "| mine | 4 | 50.0 | 50.0 | +0.0 |" in out
    code, out, err = call("compare", "b", "a")
    assert code == 0, err
    assert "| mine | 4 |" in out


def test_an_endpoint_that_fails_leaves_what_it_said(call, tmp_path: Path) -> None:
    path = tsv(tmp_path / "mine.tsv", mcq(30))
    with endpoint(lambda _, number: 401 if number >= 3 else "A") as server:
        code, out, err = call("eval", server.url, "--model", "m", "--data", str(path), "--suite", "x", "--type", "mcq",
                              "--out", "a", "--concurrency", "1", "--retries", "0")  # fmt: skip
    assert code == 2
    assert "(partial)" in out
    assert "HTTP 401" in err
    assert "3 answers are kept in a" in err
    assert json.loads((tmp_path / "a" / "evaluation.json").read_text())["partial"]


def test_official_files_from_a_folder(call, tmp_path: Path) -> None:
    tsv(tmp_path / "MMStar.tsv", mcq(2))
    code, out, _ = call("eval", "--list", "--data", str(tmp_path), "--json")
    states = {row["name"]: row["state"] for row in json.loads(out)}
    assert code == 0
    assert states["MMStar"] == "can run"
    assert states["BLINK"] == "not run: BLINK.tsv not there"
    (tmp_path / "wrong").mkdir()
    tsv(tmp_path / "wrong" / "MMStar.tsv", [{"index": "0", "question": "what?", "answer": "A"}])
    (tmp_path / "wrong" / "OCRBench.tsv").touch()
    _, out, _ = call("eval", "--list", "--data", str(tmp_path / "wrong"), "--json")
    states = {row["name"]: row["state"] for row in json.loads(out)}
    assert states["MMStar"] == "not run: no column 'image', 'category' (found: index, question, answer)"
    assert states["OCRBench"].startswith("not run: no column 'index'")
    with endpoint(lambda *_: "A") as server:
        code, out, err = call("eval", server.url, "--model", "m", "--data", str(tmp_path), "--out", "a", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["suites"]) == {"MMStar"}
    assert found["not_run"]["BLINK"].startswith("BLINK.tsv not there")
    assert found["not_run"]["IFEval"].startswith("its 25 checks")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name what to evaluate"),
        (("nano", "--suite", "generel"), "did you mean 'general'"),
        (("nano", "--data", "mine.tsv", "--suite", "mine"), "say what it is with --type"),
        (("nano", "--data", "mine.tsv", "--suite", "mine", "--type", "quiz"), "no such type"),
        (("nano", "--data", "mine.tsv"), "one --suite NAME"),
        (("nano", "--data", "mine.tsv", "--suite", "MMStar", "--type", "mcq"), "has its type already"),
        (("nano", "--data", "mine.tsv", "--suite", "IFEval"), "cannot be run here"),
        (("nano", "--data", "gone.tsv", "--suite", "x", "--type", "vqa"), "no such file"),
        (("nano", "--data", "mine.csv", "--suite", "x", "--type", "vqa"), "a .tsv"),
        (("nano", "--type", "mcq"), "no effect without --data"),
        (("nano", "--suite", "MMStar"), "nothing to run"),
        (("nano", "--model", "m"), "--model has no effect"),
        (("http://127.0.0.1:9/v1",), "needs --model"),
        (("http://127.0.0.1:9/v1", "--model", "m", "--quantize", "int8"), "--quantize has no effect"),
        (("nano", "--judge-model", "m"), "without --judge"),
        (("nano", "--judge", "http://127.0.0.1:9/v1"), "needs --judge-model"),
        (("nano", "--judge", "http://h/v1", "--judge-model", "j", "--judge-money", "1"), "needs --judge-price"),
        (("nano", "--judge", "http://u:p@h/v1", "--judge-model", "j"), "holds a user"),
        (("nano", "--against", "."), "holds no evaluation"),
        (("nano", "--data", "mine.tsv", "--suite", "x", "--type", "mcq", "--prompt", "{{ nothing }}"), "template"),
        (("gone-model",), "no shipped base model"),
    ],
)
def test_what_cannot_be_is_refused(call, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    tsv(tmp_path / "mine.tsv", mcq(2))
    (tmp_path / "mine.csv").write_text("index,question,answer\n")
    code, _, err = call("eval", *arguments)
    assert code == 2
    assert message in err
    assert not list(tmp_path.glob("eval-*"))


def test_an_unreadable_registry_file_is_no_traceback(call, tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_bytes(b"index\tquestion\n1\tq\n")
    code, _, err = call("eval", "nano", "--data", "mine.tsv", "--suite", "x", "--type", "vqa")
    assert code == 2
    assert "no column 'answer'" in err
