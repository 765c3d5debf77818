"""The training loop: steps of several packs, averages, calls bit by bit, resume, what is not finite, full disks."""

from __future__ import annotations

import errno
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from looped import Bench, assert_same, coloured

from open4ov import checkpoints, training
from open4ov.errors import UserError
from open4ov.model import Qwen3VL
from open4ov.sample import Sample
from open4ov.sft import fit as loop
from open4ov.store import ImageStore, is_disk_full


@pytest.fixture
def bench(tiny_dir: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_dir, ImageStore(tmp_path / "images"))


@pytest.fixture
def samples(bench: Bench) -> list[Sample]:
    return coloured(bench.store, 12)


# ------------------------------------------------------------------------------------------------ one step


def test_packs_of_a_step_are_one_batch_computed_in_parts(
    bench: Bench, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients are those of one pass over all packs together, whose answers differ in length."""
    seen: list[dict[str, torch.Tensor]] = []

    def step(model: Qwen3VL, *_: Any) -> float:
        seen.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
        return 0.0

    monkeypatch.setattr(training, "step", step)
    _, result = bench.train(samples, {"pack_tokens": 128, "accumulate": 100})
    (point,) = result.curve
    model = bench.model()
    together, _ = bench.encoder().pack(samples)
    loss = model.loss(together)
    loss.backward()
    assert point["loss"] == pytest.approx(loss.item(), abs=2e-5)
    assert point["targets"] == len(together.predicted)
    assert point["tokens"] == len(together.input_ids)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(seen[0][name], parameter.grad, atol=2e-5, rtol=1e-3, msg=name)
    means = [model.loss(bench.encoder().pack([sample])[0]).item() for sample in samples]
    assert abs(sum(means) / len(means) - loss.item()) > 1e-3, "a mean of means would be seen"


def test_a_document_does_not_see_its_neighbours(bench: Bench, samples: list[Sample]) -> None:
    model, encoder = bench.model(), bench.encoder()
    alone, first = encoder.document(samples[5]), len(encoder.document(samples[0]))
    with torch.no_grad():
        own, _ = model.log_probs(encoder.pack([samples[5]])[0])
        for neighbours in (samples[:1], samples[7:8]):
            packed, _ = encoder.pack([*neighbours, samples[5], samples[3]])
            first = len(encoder.document(neighbours[0]))
            inside = model.log_probs(packed)[0][first : first + len(alone)]
            torch.testing.assert_close(inside, own, atol=1e-5, rtol=0)


def test_the_rate_follows_the_tokens(bench: Bench, samples: list[Sample]) -> None:
    _, result = bench.train(samples, {"pack_tokens": 64, "lr_schedule": "wsd", "lr_decay": 0.5}, stage={"warmup": 0.25})
    done, total = 0, sum(point["tokens"] for point in result.curve)
    for point in result.curve:
        size = point["tokens"]
        done += size
        expected = done / (0.25 * total)
        if expected >= 1:
            expected = 1 - max(0, done - 0.5 * total) / (0.5 * total + size)
        assert point["lr"] == pytest.approx(3e-3 * expected)
    assert len(result.curve) > 4


# ------------------------------------------------------------------------------------------------ resume

EVERYTHING = {
    "plain": {},
    "accumulated": {"accumulate": 2, "ema": 0.9, "precision": "bf16"},
    "watched": {"validation": {"every": 2, "samples": 3, "patience": 50}, "ema": 0.5, "optimizer": "muon"},
    "adapters": {"lora_rank": 2, "ema": 0.8, "accumulate": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", EVERYTHING.values(), ids=EVERYTHING)
def test_an_interrupted_training_ends_with_the_same_bits(
    bench: Bench, samples: list[Sample], tmp_path: Path, options: dict[str, Any]
) -> None:
    options = {"checkpoint_every": 2, "pack_tokens": 64, **options}
    held = coloured(bench.store, 4, first=20)
    whole, result = bench.train(samples, options, validation=held)
    folder = tmp_path / "checkpoints"
    bench.train(samples, options, validation=held, checkpoints=folder, stop_after=3)
    assert [path.name for path in folder.iterdir()] == ["step-2"]
    resumed, again = bench.train(samples, options, validation=held, checkpoints=folder)
    assert again.curve == result.curve
    assert again.summary == result.summary
    assert len(result.curve) > 4
    assert_same(whole, resumed)


def test_samples_may_be_chosen_bit_by_bit(bench: Bench, samples: list[Sample], tmp_path: Path) -> None:
    """Two calls are one training: the rate, the optimizer, the average and the count of steps run on. A kill in the
    second is made good by both calls again."""
    options = {"pack_tokens": 64, "ema": 0.9, "checkpoint_every": 2}  # a sample a pack, so that packs are the same
    total = sum(bench.encoder().length(sample) for sample in samples)
    whole, expected = bench.train(samples, options, total_tokens=total)
    folder = tmp_path / "checkpoints"

    def both(second: list[Sample], **arguments: Any) -> tuple[Qwen3VL, loop.Fit]:
        model, first = bench.train(samples[:5], options, total_tokens=total, checkpoints=folder)
        arguments = {"total_tokens": total, "checkpoints": folder, **arguments}
        return bench.train(second, options, model, carry=first.carry, **arguments)

    model, begun = both(samples[5:], stop_after=10)
    assert len(begun.curve) == 10
    assert sorted(path.name for path in folder.iterdir()) == ["step-8"]
    with pytest.raises(UserError, match="other samples than those that are now chosen for its part 2"):
        both(samples[6:])
    model, result = both(samples[5:])
    assert result.curve == expected.curve
    assert result.summary == expected.summary
    assert_same(model, whole)
    again, _ = both(samples[5:])
    assert_same(again, whole)
    with pytest.raises(ValueError, match="needs its total_tokens"):
        both(samples[5:], total_tokens=None)


def test_between_two_calls_the_model_is_the_average(bench: Bench, samples: list[Sample]) -> None:
    model, first = bench.train(samples[:6], {"ema": 0.5}, total_tokens=2000)
    assert first.carry is not None
    assert first.carry.average is not None
    assert first.carry.live is not None
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, first.carry.average.weights[name])
    live = first.carry.live["text.norm.weight"]
    assert not torch.equal(live, first.carry.average.weights["text.norm.weight"])
    plain, _ = bench.train(samples[:6], total_tokens=2000)
    assert torch.equal(plain.text.norm.weight, live), "the average does not steer the training"


# ------------------------------------------------------------------------------------------------ not finite


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_training_and_changes_nothing(
    bench: Bench, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    options = {"pack_tokens": 64, "checkpoint_every": 2, "accumulate": 2, "ema": 0.9}
    _, before = bench.train(samples, options, stop_after=4)
    steps = before.summary["steps"]
    compute = Qwen3VL.loss

    def broken(self: Qwen3VL, batch: Any, vision: Any = None) -> torch.Tensor:
        value = compute(self, batch, vision)
        if "sample s9" not in batch.names:
            return value
        return value * math.nan if fault == "loss" else value + (self.text.norm.weight.sum() * 1e30) * 1e30

    assert before.carry is not None
    optimizer = {key: value.clone() for key, value in _state(before).items()}
    monkeypatch.setattr(Qwen3VL, "loss", broken)
    folder, model = tmp_path / "checkpoints", bench.model()
    with pytest.raises(training.Diverged) as caught:
        bench.train(samples, options, model, checkpoints=folder)
    message = str(caught.value)
    assert message.startswith(f"step {steps + 1}: the {'loss is nan' if fault == 'loss' else 'loss is inf'}")
    assert "s9" in message
    assert "s1," not in message
    assert "the checkpoint of step 4 is kept" in message
    assert [path.name for path in folder.iterdir()] == ["step-4"]
    assert all(p.grad is None for p in model.parameters())
    live = before.carry.live or {}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, live[name]), name
    monkeypatch.undo()
    resumed, result = bench.train(samples, options, checkpoints=folder)
    whole, expected = bench.train(samples, options)
    assert result.curve == expected.curve
    assert_same(resumed, whole)
    assert optimizer.keys() == _state(before).keys()


def _state(result: loop.Fit) -> dict[str, torch.Tensor]:
    assert result.carry is not None
    state = result.carry.optimizer.state
    return {f"{number}.{key}": v for number, own in enumerate(state.values()) for key, v in own.items()}


# ------------------------------------------------------------------------------------------------ checkpoints


def test_a_full_disk_leaves_the_checkpoint_before(
    bench: Bench, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"pack_tokens": 64, "checkpoint_every": 2}
    folder, write = tmp_path / "checkpoints", checkpoints.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if path.parent.name == ".part-2":
            return write(tensors, path)
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(
        UserError, match=r"disk is full \(at the checkpoint of step 4\); the one of step 2 is whole"
    ) as e:
        bench.train(samples, options, checkpoints=folder)
    assert is_disk_full(e.value)
    assert [path.name for path in folder.iterdir()] == ["step-2"]
    monkeypatch.undo()
    resumed, result = bench.train(samples, options, checkpoints=folder)
    whole, expected = bench.train(samples, options)
    assert result.curve == expected.curve
    assert_same(whole, resumed)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_file_system_that_holds_one_checkpoint_keeps_it(bench: Bench, samples: list[Sample], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    one = 12 * sum(p.numel() for p in bench.model().parameters())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={one * 3 // 2}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not mount a tmpfs")
    try:
        with pytest.raises(UserError, match="the one of step 2 is whole and kept"):
            bench.train(samples, {"pack_tokens": 64, "checkpoint_every": 2}, checkpoints=disk / "c")
        assert [path.name for path in (disk / "c").iterdir()] == ["step-2"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_damaged_checkpoint_is_said(bench: Bench, samples: list[Sample], tmp_path: Path) -> None:
    options = {"pack_tokens": 64, "checkpoint_every": 2}
    bench.train(samples, options, checkpoints=tmp_path / "c", stop_after=3)
    weights = tmp_path / "c" / "step-2" / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"step-2: damaged .*delete it"):
        bench.train(samples, options, checkpoints=tmp_path / "c")


# ------------------------------------------------------------------------------------------------ compiled


@pytest.mark.slow
def test_compiled_blocks_train_the_same(bench: Bench, samples: list[Sample]) -> None:
    for precision, within in (("fp32", 1e-3), ("bf16", 0.05)):
        options = {"pack_tokens": 128, "precision": precision}
        curves = [bench.train(samples * 2, {**options, "compile": compile})[1].curve for compile in (False, True)]
        losses, compiled = ([point["loss"] for point in curve] for curve in curves)
        assert compiled == pytest.approx(losses, abs=within)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_trains_as_the_processor_does(bench: Bench, samples: list[Sample]) -> None:
    _, expected = bench.train(samples, {"pack_tokens": 128})
    _, result = bench.train(samples, {"pack_tokens": 128}, bench.model().to("cuda"))
    assert [p["loss"] for p in result.curve] == pytest.approx([p["loss"] for p in expected.curve], abs=1e-2)
    _, half = bench.train(samples, {"pack_tokens": 128, "precision": "bf16"}, bench.model().to("cuda"))
    assert [p["loss"] for p in half.curve] == pytest.approx([p["loss"] for p in expected.curve], abs=0.1)
