"""Pretraining of the nano base: reproducible, and interrupted without a trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_config

from open4ov.corpora.nano.build import Upcycling, build_moe
from open4ov.corpora.nano.tower import Heads, draw
from open4ov.corpora.nano.train import UPCYCLED, NanoTraining, rate, train
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL

TRAINING = NanoTraining(pictures=24, picture_batch=8, items=60, pack_tokens=1500, beside=2)


class Interrupted(Exception):
    pass


def run(tiny_dir: Path, out: Path, stop_after: int | None = None, training: NanoTraining = TRAINING) -> list[float]:
    processor = Processor.from_pretrained(tiny_dir)
    losses: list[float] = []

    def on_step(figures: dict[str, float]) -> None:
        losses.append(figures.get("loss", figures["picture_loss"]))

    model = Qwen3VL(tiny_config(processor), seed=3)
    if stop_after is not None:  # every step is a checkpoint; the step after the last one is lost
        original = on_step

        def on_step(figures: dict[str, float]) -> None:
            if len(losses) == stop_after:
                raise Interrupted
            original(figures)

    train(model, processor, out, training, on_step, compile_blocks=False, checkpoint_minutes=0.0)
    return losses


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_bytes(tiny_dir: Path, tmp_path: Path) -> None:
    losses = run(tiny_dir, tmp_path / "whole")
    assert len(losses) > 7
    for stop_after in (2, 3):  # among the tower's pictures, and among the conversations
        with pytest.raises(Interrupted):
            run(tiny_dir, tmp_path / "parts", stop_after)
    assert run(tiny_dir, tmp_path / "parts") == losses[5:]
    for name in ("model.safetensors", "curve.json", "training.json", "tokenizer.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_checkpoint_of_other_options_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tiny_dir, tmp_path, stop_after=1)
    with pytest.raises(UserError, match="other options"):
        run(tiny_dir, tmp_path, training=replace(TRAINING, seed=1))


def test_the_rate_rises_holds_and_falls() -> None:
    training = NanoTraining(warmup=0.1, cooldown=0.5)
    assert [rate(done, training) for done in (0.05, 0.1, 0.5, 0.75, 1.0)] == [0.5, 1.0, 1.0, 0.5, 0.0]


def test_the_tower_learns_what_its_pictures_show(tiny_dir: Path) -> None:
    processor = Processor.from_pretrained(tiny_dir)
    model = Qwen3VL(tiny_config(processor), seed=3)
    heads = Heads(model.config.text.hidden_size, seed=3)
    pictures = draw(range(8), 0, processor.images)
    optimizer = torch.optim.AdamW([*model.vision.parameters(), *heads.parameters()], lr=5e-3)
    losses: list[float] = []
    for _ in range(60):
        loss, right = heads(model, pictures)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    assert right > 0.9
    assert all(p.grad is None for p in model.text.parameters())


def test_a_base_with_experts_is_made_from_a_dense_one(tiny_dir: Path, tmp_path: Path) -> None:
    training = replace(UPCYCLED, items=12, pack_tokens=1500)
    figures: list[dict[str, float]] = []
    build_moe(tmp_path, tiny_dir, Upcycling(experts=4, top_k=2), training, figures.append, compile_blocks=False)
    dense, sparse = Qwen3VL.from_pretrained(tiny_dir), Qwen3VL.from_pretrained(tmp_path)
    assert sparse.config.text.num_experts == 4
    assert sparse.config.text.num_experts_per_tok == 2
    assert figures
    tower = dense.vision.to(torch.bfloat16).state_dict()
    assert all(torch.equal(tower[name].float(), value) for name, value in sparse.vision.state_dict().items())
    assert not torch.equal(dense.text.embed.weight.bfloat16().float(), sparse.text.embed.weight)
    assert "2 of 4 experts" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "training.json").read_text())["experts"] == 4


def test_nothing_can_be_taught_to_a_frozen_tower(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pictures and beside must be 0"):
        run(tiny_dir, tmp_path, training=replace(TRAINING, freeze_vision=True))
