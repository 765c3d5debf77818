"""The command line, as a user meets it: processes, exit codes, what is on stdout and on stderr."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import openai
import pytest
from PIL import Image

from open4ov import cli
from open4ov.assets import base_dir
from open4ov.engine import Engine, Request
from open4ov.images import open_image
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user

SMALL = """
name: small
images: {per_symbol: 1, general_count: 12}
"""


def open4ov(
    *arguments: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "open4ov.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, env=environment, check=False)


Inside = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def inside(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The same in this process, which has PyTorch loaded: for what is not about processes."""

    def run(*arguments: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        settings = {"NO_COLOR": "1", "COLUMNS": "200", **(environment or {})}
        with monkeypatch.context() as set_:
            for name, value in settings.items():
                set_.setenv(name, value)
            set_.setattr(sys, "argv", ["open4ov", *map(str, arguments)])
            capfd.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
            said = capfd.readouterr()
        return subprocess.CompletedProcess(sys.argv, int(ended.value.code or 0), said.out, said.err)

    return run


def events(lines: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """A recipe, its run directory up to `data`, and what the first run said."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.yaml").write_text(SMALL)
    done = open4ov("run", folder / "small.yaml", "--out", folder / "out", "--until", "data", "--json")
    return folder / "small.yaml", folder / "out", done


Finished = tuple[Path, Path, subprocess.CompletedProcess[str]]


def test_json_lines_tell_of_each_stage(finished: Finished) -> None:
    _, out, done = finished
    assert done.returncode == 0, done.stderr
    told = events(done.stdout)
    assert [(e["event"], e["stage"]) for e in told if e["event"] in ("started", "finished")] == [
        ("started", "images"), ("finished", "images"), ("started", "data"), ("finished", "data"),
    ]  # fmt: skip
    assert any(e["event"] == "progress" and e["done"] == e["total"] for e in told)
    assert done.stderr == ""
    assert {path.name for path in (out / "data").iterdir()} >= {"samples.parquet", "rejected.parquet", "stage.json"}


def test_the_second_run_does_nothing(finished: Finished, inside: Inside) -> None:
    recipe, out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    again = inside("run", recipe, "--out", out, "--until", "data", "--json")
    assert [(e["event"], e["stage"]) for e in events(again.stdout)] == [("skipped", "images"), ("skipped", "data")]
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*")}


def test_progress_goes_to_stderr_and_quiet_is_silent(finished: Finished, inside: Inside) -> None:
    recipe, out, _ = finished
    told = inside("run", recipe, "--out", out, "--until", "data")
    assert told.stdout == ""
    assert [line.split()[1] for line in told.stderr.splitlines()] == ["images", "data"]
    quiet = inside("run", recipe, "--out", out, "--until", "data", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_set_changes_the_run(finished: Finished, inside: Inside, tmp_path: Path) -> None:
    recipe, _, _ = finished
    out = tmp_path / "out"
    done = inside("run", recipe, "--out", out, "--until", "images", "--set", "images.general_count=3", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "images" / "summary.json").read_text())["general"] == 3
    assert json.loads((out / "run.json").read_text())["recipe"]["images"]["general_count"] == 3


def test_control_c_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(SMALL.replace("per_symbol: 1", "per_symbol: 50"))
    command: Sequence[str] = [sys.executable, "-m", "open4ov.cli", "run", "r.yaml", "--out", "out", "--until", "images"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/image-store/*/*.png")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "stopped; the same command goes on from here (out)" in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "out" / "images").exists()


def test_ask_streams_an_answer(inside: Inside, tiny_dir: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "red.png")
    Image.new("RGBA", (96, 64), (0, 0, 200, 90)).save(tmp_path / "blue.png")
    images = ["--image", tmp_path / "red.png", "--image", tmp_path / "blue.png"]
    said = inside("ask", tiny_dir, *images, "What colour?", "--max-tokens", "5")
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""

    engine = Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir))
    pictures = [open_image(tmp_path / name) for name in ("red.png", "blue.png")]
    request = Request([user("What colour?", images=2)], pictures, max_tokens=5)
    assert said.stdout == engine.generate([request])[0][0].text + "\n"


def test_ask_takes_the_last_finished_model_of_a_run(inside: Inside, tiny_dir: Path, tmp_path: Path) -> None:
    """Stage folders as a run leaves them, each with a model; the unfinished ones (no stage.json) do not count."""
    from open4ov.pipeline import finished_model

    for name in ("sft_knowledge", "rl", "dpo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").symlink_to(tiny_dir)
    (tmp_path / "run.json").write_text("{}")
    assert finished_model(tmp_path) is None
    (tmp_path / "sft_knowledge" / "stage.json").write_text("{}")
    assert finished_model(tmp_path) == tmp_path / "sft_knowledge" / "model"
    (tmp_path / "rl" / "stage.json").write_text("{}")
    assert finished_model(tmp_path) == tmp_path / "rl" / "model"
    assert inside("ask", tmp_path, "Hello?", "--max-tokens", "3").returncode == 0


def test_help_names_the_commands() -> None:
    told = open4ov("--help")
    assert told.returncode == 0
    for command in ("run", "ask", "table", "nano"):
        assert f" {command} " in told.stdout


def test_serving_to_others_needs_keys(inside: Inside) -> None:
    done = inside("serve", "nano", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "set OPEN4OV_API_KEYS to the keys that are let in" in done.stderr


def test_stages_of_other_weights_are_refused(inside: Inside) -> None:
    done = inside("serve", "nano", "--quantize", "int8", "--prefill-workers", "1")
    assert done.returncode == 2
    assert "leave out --quantize and --adapter, or the stages" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["polite"], "--lora polite: write NAME=PATH"),
        (["open4ov=a"], "there is a model open4ov already"),
        (["a=x", "a=y"], "there is a model a already"),
        (["a=nowhere.safetensors"], "nowhere.safetensors: no adapters of open4ov"),
    ],
)
def test_adapters_that_cannot_be_served(inside: Inside, given: list[str], said: str) -> None:
    done = inside("serve", "nano", "--port", "0", *(word for one in given for word in ("--lora", one)))
    assert done.returncode == 2
    assert said in done.stderr


def test_a_model_is_served_until_it_is_stopped(inside: Inside) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPEN4OV_API_KEYS": "one, two"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "open4ov.cli", "serve", "nano", "--port", str(port), "--name", "small"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        client = openai.OpenAI(api_key="two", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
        for _ in range(1200):
            try:
                assert [model.id for model in client.models.list()] == ["small"]
                break
            except openai.APIConnectionError:
                assert process.poll() is None
                time.sleep(0.1)
        question = [{"role": "user", "content": "What is 3 + 4?"}]
        answer = client.chat.completions.create(model="small", messages=question, temperature=0, max_tokens=24)  # type: ignore[arg-type]
        folder = base_dir("nano")
        engine = Engine(Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder))
        expected = engine.generate([Request([user("What is 3 + 4?")], max_tokens=24)])[0][0]
        assert answer.choices[0].message.content == expected.text
        url = f"http://127.0.0.1:{port}/v1"
        said = inside("ask", url, "What is 3 + 4?", "--max-tokens", "24", environment={"OPENAI_API_KEY": "one"})
        assert said.stdout.strip() == expected.text.strip()
        turned_away = inside("ask", url, "What?", environment={"OPENAI_API_KEY": "three"})
        assert turned_away.returncode == 2
        assert "HTTP 401: a key is needed" in turned_away.stderr
        assert "have no effect on a server" in inside("ask", url, "What?", "--quantize", "int8").stderr
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "open4ov: small at http://127.0.0.1" in told
    assert "Traceback" not in told
    gone = inside("ask", f"http://127.0.0.1:{port}/v1", "What?")
    assert gone.returncode == 2
    assert "is the server up" in gone.stderr
