"""SFT on several processes ends as on one: curve, validation, average, checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from spread_fits import called, led, paced, several, trained

from open4ov.model import Qwen3VL
from open4ov.model.lora import is_adapter

sys.path.append(str(Path(__file__).parents[1] / "parallel"))

import world  # pyright: ignore[reportMissingImports]

COUNTED = ("steps", "tokens", "shared")
OPTIONS: dict[str, Any] = {
    "pack_tokens": 64,
    "accumulate": 3,
    "ema": 0.9,
    "validation": {"every": 2, "samples": 3},
    "checkpoint_every": 2,
}


def assert_alike(found: Any, wanted: Any) -> None:
    (own_curve, own_summary, own_weights), (curve, summary, weights) = found, wanted
    for a, b in zip(own_curve, curve, strict=True):
        assert a.keys() == b.keys()
        assert a["loss"] == pytest.approx(b["loss"], abs=3e-5), (own_curve, curve)
        assert a.get("val_loss") == pytest.approx(b.get("val_loss"), abs=3e-5)
        assert {k: a[k] for k in ("tokens", "targets", "lr")} == {k: b[k] for k in ("tokens", "targets", "lr")}
    assert own_summary["model_flops"] == pytest.approx(summary["model_flops"])
    assert {k: own_summary[k] for k in COUNTED} == {k: summary[k] for k in COUNTED}
    for name, value in weights.items():
        # AdamW's first steps are of one size, where a gradient is but rounding, too; see parallel/test_parity.py
        assert (own_weights[name] - value).norm() < 1e-3 * value.norm() + 1e-4, name


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_end_as_one(tiny_dir: Path, tmp_path: Path) -> None:
    arguments = (tiny_dir, tmp_path / "images")
    wanted = trained(*arguments, {}, OPTIONS, {})
    assert len(wanted[0]) > 3
    for found in world.run(trained, 2, *arguments, {"dp_shard": 2}, OPTIONS, {}, timeout=600):
        assert_alike(found, wanted)


@pytest.mark.slow
@pytest.mark.distributed
def test_every_axis_a_frozen_tower_and_a_training_that_is_taken_up_again(tiny_dir: Path, tmp_path: Path) -> None:
    stage = {"freeze_vision": True}
    wanted = trained(tiny_dir, tmp_path / "images", {}, OPTIONS, stage)
    given = (tiny_dir, tmp_path / "images", tmp_path / "checkpoints", OPTIONS, stage)
    for outcomes in world.run(several, 2, *given, timeout=900):
        for found in outcomes:
            assert_alike(found, wanted)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_who_leads_needs_no_model_before(tiny_dir: Path, tmp_path: Path, lora_rank: int) -> None:
    """The whole one comes out of the training: the same weights, the same ones trained."""
    (before, trained_before), (after, trained_after) = world.run(led, 2, tiny_dir, tmp_path, tmp_path, lora_rank)[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    start = Qwen3VL.from_pretrained(tiny_dir).state_dict()
    moved = {name for name, value in after.items() if name not in start or not torch.equal(value, start[name])}
    assert moved == trained_after == trained_before
    assert all(is_adapter(name) for name in moved) == bool(lora_rank)


@pytest.mark.distributed
def test_the_use_of_the_devices_is_of_all_together(tiny_dir: Path, tmp_path: Path) -> None:
    for figures, flops in world.run(paced, 2, tiny_dir, tmp_path / "images", 1e-4):
        assert figures["mfu"] == pytest.approx(flops / figures["seconds"] / (2 * 1e8), rel=0.02, abs=1e-4)


@pytest.mark.distributed
def test_ranks_that_begin_with_another_model_are_told_before_each_training(tmp_path: Path) -> None:
    for rank in "01":
        (tmp_path / rank / "model").mkdir(parents=True)
        (tmp_path / rank / "model" / "model.safetensors").write_text(rank)
    for name in ("samples.parquet", "pairs.parquet", "tasks.json"):
        (tmp_path / name).write_text("alike")
    for said in world.run(called, 2, tmp_path):
        assert len(said) == 3
        for text in said:
            assert "the ranks were not given the same:\n  file: model/model.safetensors: " in text
