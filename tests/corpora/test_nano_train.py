"""Pretraining of the nano base: reproducible, and interrupted without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_config

from open4ov.corpora.nano.train import NanoTraining, rate, train
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL

TRAINING = NanoTraining(items=60, pack_tokens=1500)


class Interrupted(Exception):
    pass


def run(tiny_dir: Path, out: Path, stop_after: int | None = None, training: NanoTraining = TRAINING) -> list[float]:
    processor = Processor.from_pretrained(tiny_dir)
    losses: list[float] = []

    def on_step(figures: dict[str, float]) -> None:
        losses.append(figures["loss"])

    model = Qwen3VL(tiny_config(processor), seed=3)
    if stop_after is not None:  # every step is a checkpoint; the step after the last one is lost
        original = on_step

        def on_step(figures: dict[str, float]) -> None:
            if len(losses) == stop_after:
                raise Interrupted
            original(figures)

    train(model, processor, out, training, on_step, compile_blocks=False, checkpoint_minutes=0.0)
    return losses


def test_an_interrupted_training_ends_with_the_same_bytes(tiny_dir: Path, tmp_path: Path) -> None:
    losses = run(tiny_dir, tmp_path / "whole")
    assert len(losses) > 3
    with pytest.raises(Interrupted):
        run(tiny_dir, tmp_path / "parts", stop_after=2)
    assert run(tiny_dir, tmp_path / "parts") == losses[2:]
    for name in ("model.safetensors", "curve.json", "training.json", "tokenizer.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_checkpoint_of_other_options_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tiny_dir, tmp_path, stop_after=1)
    with pytest.raises(UserError, match="other options"):
        run(tiny_dir, tmp_path, training=NanoTraining(items=60, pack_tokens=1500, seed=1))


def test_the_rate_rises_holds_and_falls() -> None:
    training = NanoTraining(warmup=0.1, cooldown=0.5)
    assert [rate(done, training) for done in (0.05, 0.1, 0.5, 0.75, 1.0)] == [0.5, 1.0, 1.0, 0.5, 0.0]
