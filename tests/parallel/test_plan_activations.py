"""What the planner says a pass keeps, against what PyTorch keeps: within a tenth, in every mode, on a CPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from bench.steps import middle, work
from open4ov.assets import base_dir
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.parallel import plan_activations, recompute
from open4ov.parallel.plan_activations import Spread
from open4ov.parallel.plan_job import Work
from open4ov.parallel.recompute import Mode

WITHIN = 0.1
EQUAL, MIXED = [96] * 4, [40, 64, 96, 130, 300]


def build(name: str) -> Qwen3VL:
    if name == "60M":
        return Qwen3VL(middle(Qwen3VL.from_pretrained(base_dir("nano")).config), seed=1)
    return Qwen3VL.from_pretrained(base_dir(name))


def both(name: str, lengths: list[int], half: bool, language: Mode, vision: Mode, frozen: bool = False) -> list[float]:
    """Bytes as planned and as PyTorch has them."""
    model = build(name)
    for parameter in model.vision_parameters():
        parameter.requires_grad_(not frozen)
    batch = pack(work(Processor.from_pretrained(base_dir("nano")), lengths).documents)
    recompute.apply(model, language=language, vision=vision)

    def compute() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            return model.loss(batch)

    kept = recompute.saved_bytes(compute)
    grids = tuple((t, h, w) for t, h, w in batch.grids.tolist())
    job = Work(tuple(batch.lengths.tolist()), grids, len(batch.predicted))
    spread = Spread(half=half, cuda=False)
    planned = plan_activations.forward(model.config, job, spread, language, vision, frozen_vision=frozen)
    return [float(sum(planned.values())), float(kept)]


@pytest.mark.parametrize("mode", ["none", "op", "full"])
@pytest.mark.parametrize("name", ["nano", "nano-moe"])
def test_each_mode(name: str, mode: Mode) -> None:
    planned, kept = both(name, EQUAL, half=False, language=mode, vision=mode)
    assert planned == pytest.approx(kept, rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "op", "full"])
def test_in_half_precision(mode: Mode) -> None:
    planned, kept = both("nano", EQUAL, half=True, language=mode, vision=mode)
    assert planned == pytest.approx(kept, rel=WITHIN)


def test_documents_of_mixed_length_are_padded() -> None:
    planned, kept = both("nano", MIXED, half=False, language="none", vision="none")
    assert planned == pytest.approx(kept, rel=WITHIN)


def test_a_frozen_tower_keeps_nothing() -> None:
    planned, kept = both("nano", EQUAL, half=False, language="full", vision="none", frozen=True)
    assert planned == pytest.approx(kept, rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["none", "op", "full"])
@pytest.mark.parametrize("vision", ["none", "op", "full"])
@pytest.mark.parametrize("name", ["nano", "nano-moe", "60M"])
@pytest.mark.parametrize("lengths", [EQUAL, MIXED], ids=["equal", "mixed"])
def test_all_together(name: str, lengths: list[int], language: Mode, vision: Mode) -> None:
    planned, kept = both(name, lengths, half=False, language=language, vision=vision)
    assert planned == pytest.approx(kept, rel=WITHIN)


@pytest.mark.slow  # ten times as slow as float32 on a processor without bf16 units, so not every pair of modes
@pytest.mark.parametrize("mode", ["none", "op", "full"])
@pytest.mark.parametrize("name", ["nano-moe", "60M"])
def test_larger_models_in_half_precision(name: str, mode: Mode) -> None:
    planned, kept = both(name, MIXED, half=True, language=mode, vision=mode)
    assert planned == pytest.approx(kept, rel=WITHIN)
