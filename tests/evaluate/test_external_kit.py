"""The real VLMEvalKit beside us, in the environment that OPEN4OV_VLMEVAL_PYTHON or .venv-vlmeval names."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import kit_cases
import pytest
from endpoint import endpoint
from eval_files import mcq, tsv
from test_external import GOLDEN

from open4ov import cli
from open4ov.assets import base_dir
from open4ov.errors import UserError
from open4ov.evaluate import external
from open4ov.evaluate.answering import Endpoint
from open4ov.evaluate.external import Options
from open4ov.evaluate.external_process import Served
from open4ov.evaluate.set_eval import Plan
from open4ov.recipe_providers import ProviderSection

pytestmark = pytest.mark.vlmeval


@pytest.fixture(autouse=True)
def python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment they are skipped; one that is named and of no use is a failure."""
    named = external.PYTHON in os.environ
    try:
        monkeypatch.setenv(external.PYTHON, str(external.find_python()))
    except UserError as error:
        if named:
            raise
        pytest.skip(str(error))


def test_the_kit_writes_what_the_golden_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    plan = Plan(kit_cases.suites(tmp_path))
    with endpoint(kit_cases.reply) as server:
        settings = ProviderSection(kind="openai", base_url=server.url, model="m", image_format="png", max_pixels=None)
        served, options = Served(server.url, "m", "k"), Options(retries=0, concurrency=4)
        _, found = external.check(plan, Endpoint(settings), served, tmp_path / "out", options)
        asked = len(server.bodies)
        # again: nobody is asked
        _, again = external.check(plan, Endpoint(settings), served, tmp_path / "out", options)
        assert len(server.bodies) == asked
    assert again == found
    work = tmp_path / "out" / "vlmevalkit" / "work"
    for path in sorted(GOLDEN.rglob("*")):
        if path.is_file():
            assert (work / path.relative_to(GOLDEN)).read_text() == path.read_text(), path.name
    heard = [body for body in server.bodies if body["messages"][0]["content"][-1]["text"].startswith("Question: mcq")]
    pictures = {part["image_url"]["url"] for body in heard for part in body["messages"][0]["content"][:-1]}
    assert len(pictures) == 1  # theirs are ours, byte for byte
    assert {body["max_tokens"] for body in heard} == {64}
    assert {body["temperature"] for body in heard} == {0}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    # the server is another process, which must find the package that is tested
    monkeypatch.setenv("PYTHONPATH", str(Path(external.__file__).parents[2]))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["open4ov", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_nano_model_on_three_kinds_and_a_file(call, tmp_path: Path) -> None:
    nano = str(base_dir("nano"))
    code, out, err = call("eval", nano, "--harness", "vlmevalkit", "--suite", "general", "--items", "4", "--out", "a",
                          "--must-agree", "--json")  # fmt: skip
    assert code == 0, err
    found = json.loads(out)["agreement"]
    assert set(found["sets"]) == {"mcq", "yes_no", "vqa"}
    for row in found["sets"].values():
        assert row["items"] == row["same_prompt"] == row["same_verdict"] == 4
    assert found["harness"]["ms-vlmeval"] == "0.0.20"
    path = tsv(tmp_path / "mine.tsv", mcq(4))
    code, out, err = call("eval", nano, "--harness", "vlmevalkit", "--data", str(path), "--suite", "mine", "--type",
                          "mcq", "--out", "b", "--harness-pictures", "kit")  # fmt: skip
    assert code == 0, err
    assert "mine  4" in out
    assert external.PYTHON in os.environ


def test_a_kit_that_fails_shows_its_last_lines(call, tmp_path: Path) -> None:
    path = tsv(tmp_path / "mine.tsv", mcq(4))
    os.environ["OPENAI_API_KEY"] = "k"
    with endpoint(lambda *_: "A") as server:
        code, _, _ = call("eval", server.url, "--model", "m", "--harness", "vlmevalkit", "--data", str(path), "--suite",
                          "mine", "--type", "mcq", "--out", "a", "--must-agree")  # fmt: skip
        assert code == 0
        (tmp_path / "a" / "vlmevalkit" / "work" / "set1.asked.jsonl").unlink()
        (tmp_path / "a" / "vlmevalkit" / "data" / "set1" / "set1.tsv").write_text("index\n1\n")
        code, _, err = call("eval", server.url, "--model", "m", "--harness", "vlmevalkit", "--data", str(path),
                            "--suite", "mine", "--type", "mcq", "--out", "a")  # fmt: skip
    assert code == 2
    assert "VLMEvalKit failed (exit code 1)" in err
    assert "VLMEvalKit wrote no scores of set1" in err
