"""What a training tells of each step, how fast it says it is, and that times change no digest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from looped import Bench, coloured

from open4ov import journal
from open4ov.errors import UserError
from open4ov.model import lora
from open4ov.model.flops import count
from open4ov.run_dir import Place
from open4ov.sample import Sample
from open4ov.sft import throughput
from open4ov.sft.throughput import Operations
from open4ov.store import ImageStore

PACE = ("seconds", "tokens_per_second", "mfu")


@pytest.fixture
def bench(tiny_dir: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_dir, ImageStore(tmp_path / "images"))


@pytest.fixture
def samples(bench: Bench) -> list[Sample]:
    return coloured(bench.store, 8)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_every_step_is_a_line_and_a_resumed_training_takes_later_ones_back(
    bench: Bench, samples: list[Sample], tmp_path: Path
) -> None:
    options = {"pack_tokens": 64, "checkpoint_every": 2, "peak_tflops": 0.05}
    folder = tmp_path / "journal"
    bench.train(samples, options, checkpoints=tmp_path / "c", journal=folder, stop_after=5)
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4, 5]
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # torn by a kill
    _, result = bench.train(samples, options, checkpoints=tmp_path / "c", journal=folder)
    found = lines(folder)
    assert [{key: v for key, v in line.items() if key not in PACE} for line in found] == result.curve
    assert len(found) == 8
    for line in found:
        assert line["seconds"] > 0
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"], rel=0.2)
        assert line["mfu"] > 0
    flops = result.summary["model_flops"] / 8
    assert found[-1]["mfu"] == pytest.approx(flops / found[-1]["seconds"] / 5e10, rel=0.3)
    out = tmp_path / "out"
    out.mkdir()
    journal.publish(folder, out)
    assert lines(out) == found


def test_without_a_known_peak_there_is_no_mfu(bench: Bench, samples: list[Sample], tmp_path: Path) -> None:
    bench.train(samples, journal=tmp_path / "journal")
    assert all("mfu" not in line for line in lines(tmp_path / "journal"))


def test_operations_are_those_of_what_is_trained(bench: Bench, samples: list[Sample]) -> None:
    encoder = bench.encoder()
    batch, _ = encoder.pack(samples)
    grids = [(1, 2, 2)] * len(samples)
    assert batch.grids.tolist() == [list(grid) for grid in grids]
    model = bench.model()
    flops = count(model.config, batch.lengths.tolist(), grids, len(batch.predicted))
    assert Operations(model).of(batch, None) == flops.training()
    model.vision.requires_grad_(False)
    assert Operations(model).of(batch, None) == flops.training(frozen_vision=True)
    assert Operations(model).of(batch, object()) == flops.training(cached_vision=True)
    lora.add(model, 2)
    assert Operations(model).of(batch, None) == 2 * (flops.forward - flops.vision) + flops.vision
    assert Operations(torch.nn.Linear(1, 1)).of(batch, None) == 0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA H200", 989.0),
        ("GeForce 256", None),
    ],
)
def test_known_cards(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert throughput.peak_tflops(torch.device("cuda")) == peak
    assert throughput.peak_tflops(torch.device("cpu")) is None


def test_times_change_no_digest(tmp_path: Path) -> None:
    digests: set[str] = set()
    for seconds in ("1", "2"):
        place = Place(tmp_path / seconds, "sft")
        place.prepare("key", {})
        (place.new / "tensorboard").mkdir()
        for name in ("train.jsonl", "tensorboard/events"):
            (place.new / name).write_text(seconds)
        (place.new / "curve.json").write_text("same")
        place.publish({"key": "key"})
        digests.add(place.lineage()["digest"])
        assert place.intact("key")
        (place.final / "train.jsonl").unlink()
        assert not place.intact("key")
    assert len(digests) == 1


def test_tensorboard_gets_every_figure(bench: Bench, samples: list[Sample], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "journal"
    _, result = bench.train(samples, {"tensorboard": True, "pack_tokens": 64}, journal=folder)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(p["step"], pytest.approx(p["loss"])) for p in result.curve]


@pytest.mark.parametrize(("key", "package"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_package_that_is_not_there_is_said(
    bench: Bench, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"sft\.{key}: .*pip install 'open4ov\[{key}\]'"):
        bench.train(samples, {key: True if key == "tensorboard" else "p"}, journal=tmp_path)


def test_wandb_gets_every_figure_and_no_key(
    bench: Bench, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[int, dict[str, Any]]] = []
    begun: list[dict[str, Any]] = []
    ended: list[bool] = []

    def init(**arguments: Any) -> Any:
        begun.append(arguments)
        return SimpleNamespace(
            log=lambda figures, step: logged.append((step, figures)), finish=lambda **_: ended.append(True)
        )

    module = ModuleType("wandb")
    module.init, module.Settings = init, lambda **options: options  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", module)
    _, result = bench.train(samples, {"wandb": "my-project", "pack_tokens": 64}, journal=tmp_path / "j", name="r sft")
    assert begun[0]["project"] == "my-project"
    assert "key" not in json.dumps(begun, default=str)
    assert [(step, figures["train/loss"]) for step, figures in logged] == [(p["step"], p["loss"]) for p in result.curve]
    assert ended == [True]

    def refused(**_: Any) -> Any:
        raise RuntimeError("no API key configured")

    module.init = refused  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match=r"sft\.wandb: no API key configured; log in .* WANDB_MODE=offline"):
        bench.train(samples, {"wandb": "my-project"}, journal=tmp_path / "j")
