"""Where models answer: on a GPU where there is one, and where their weights can be computed."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from open4ov import machine
from open4ov.cli import app
from open4ov.engine.loaded import loaded
from open4ov.engine.paged import GROW_GPU
from open4ov.engine.quantize import load
from open4ov.errors import UserError
from open4ov.evaluate import reading, suites
from open4ov.model import Processor
from open4ov.recipe import EvaluateSection

without_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NAMES = ("evaluate.device", "evaluate.weights")


def test_int8_is_computed_on_the_cpu_whatever_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine.answering("int8", "auto", *NAMES).type == "cpu"
    assert machine.answering("same", "auto", *NAMES).type == machine.answering(None, "cuda", *NAMES).type == "cuda"
    assert machine.answering(None, "cpu", *NAMES).type == "cpu"


@pytest.mark.parametrize(("kind", "device"), [("int8", "cuda"), ("fp8", "cpu")])
def test_weights_that_the_device_cannot_compute_are_refused(kind: str, device: str) -> None:
    with pytest.raises(
        UserError, match=rf"evaluate.device: {kind} \(evaluate.weights\) is computed on .*, not on {device}"
    ):
        machine.answering(kind, device, *NAMES)


@without_card
@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"device": "cuda"}, "evaluate.device: there is no CUDA device here"),
        ({"weights": "fp8"}, "evaluate.weights: quantize: fp8 is computed on an NVIDIA GPU"),
    ],
)
def test_a_recipe_is_told_before_anything_runs(section: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        machine.evaluation(EvaluateSection.model_validate(section))


@without_card
@pytest.mark.parametrize(
    "command", [["ask", "nano", "What is 2+3?"], ["serve", "nano"], ["eval", "nano", "--suite", "text", "--items", "1"]]
)
def test_commands_name_the_option_where_there_is_no_card(command: list[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)] if command[0] == "eval" else []
    port = ["--port", "0"] if command[0] == "serve" else []
    result = CliRunner().invoke(app, [*command, *out, *port, "--device", "cuda"])
    assert isinstance(result.exception, UserError), result.output
    assert "--device: there is no CUDA device here" in str(result.exception)


@pytest.mark.parametrize("option", [["--device", "cuda"], ["--quantize", "fp8"]])
def test_servers_with_stages_compute_on_the_cpu(option: list[str]) -> None:
    result = CliRunner().invoke(app, ["serve", "nano", "--encode-workers", "1", *option])
    assert isinstance(result.exception, UserError)
    assert f"{' '.join(option)}: servers with stages compute on the CPU" in str(result.exception)


def test_a_server_of_rollouts_goes_nowhere_but_where_it_was_told(tmp_path: Path) -> None:
    command = ["rollout", "nano", "--folder", str(tmp_path), "--port", "0", "--device", "cpu", "--quantize", "fp8"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, UserError), result.output
    assert "--device: fp8 (--quantize) is computed on cuda, not on cpu" in str(result.exception)


def test_a_kind_that_is_none_is_named_wherever_it_was_to_be_computed() -> None:
    result = CliRunner().invoke(app, ["ask", "nano", "What is 2+3?", "--quantize", "int9", "--device", "cpu"])
    assert isinstance(result.exception, UserError), result.output
    assert "quantize: no kind is called 'int9'" in str(result.exception)


def test_an_address_computes_elsewhere() -> None:
    for command in (["ask", "http://127.0.0.1:9/v1", "why?"], ["eval", "http://127.0.0.1:9/v1", "--model", "m"]):
        result = CliRunner().invoke(app, [*command, "--device", "cpu"])
        assert isinstance(result.exception, UserError)
        assert "--device" in str(result.exception)
        assert "no effect" in str(result.exception)


@cuda
def test_on_a_card_products_are_held_in_bfloat16(tiny_dir: Path) -> None:
    engine = loaded(tiny_dir)
    assert engine.model.device.type == "cuda"
    assert engine.autocast == torch.bfloat16 == engine.model.text.layers[0].attention.q.weight.dtype
    assert engine._decoding.on
    assert not engine._decoding.casts
    assert engine._rows.grow == GROW_GPU
    assert load(tiny_dir).device.type == "cpu"


@cuda
def test_nothing_stays_on_a_card_after_an_evaluation(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of pictures are held for the next model, in host memory."""
    monkeypatch.setattr(reading, "_latest", None)
    section = EvaluateSection(items=4, sampled_items=2, samples=2, max_tokens=3)
    processor = Processor.from_pretrained(tiny_dir)
    after: list[int] = []
    for _ in range(2):
        suites.ask(load(tiny_dir, half=torch.bfloat16, device="cuda"), processor, section, 0)
        gc.collect()
        after.append(torch.cuda.memory_allocated())
    assert after[1] <= after[0]  # the first one has brought workspaces of libraries, too
    assert reading._latest is not None
    assert {one.merged.device.type for one in reading._latest.features.values()} == {"cpu"}
