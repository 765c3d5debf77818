"""Rates and freezing by part of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from open4ov import recipe_sft, training
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import SftSection, SftStage
from open4ov.recipe_sft import PARTS, Part
from open4ov.sample import Sample, assistant, user
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import fit
from open4ov.store import ImageStore


def part_of(name: str) -> Part:
    """By the names of Qwen3-VL's parameters."""
    if not name.startswith("vision."):
        return "language"
    return "merger" if name.startswith(("vision.merger", "vision.taps")) else "vision"


def moved(tiny_dir: Path, tmp_path: Path, options: SftStage) -> tuple[dict[str, float], Encoder]:
    """By how much a short training changes each parameter, largest value; and its encoder."""
    store = ImageStore(tmp_path)
    made = [
        Sample(
            id=str(number),
            source="t",
            task="t",
            images=[store.put(Image.new("RGB", (32, 32 * (1 + number % 2)), (40 * number, 0, 99)))],
            messages=[user("What colour is the circle?", 1), assistant("red green")],
        )
        for number in range(6)
    ]
    model = Qwen3VL.from_pretrained(tiny_dir)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    encoder = Encoder(Processor.from_pretrained(tiny_dir), store)
    fit(model, encoder, made, SftSection(pack_tokens=64, precision="fp32", weight_decay=0), options)
    return {name: float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters()}, encoder


def test_the_three_parts_are_the_whole_model(tiny_dir: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    names = {id(p): name for name, p in model.named_parameters()}
    seen: list[str] = []
    for part in PARTS:
        own = [names[id(p)] for p in model.part_parameters(part)]
        assert {part_of(name) for name in own} == {part}
        seen += own
    assert sorted(seen) == sorted(names.values())


@pytest.mark.parametrize(
    ("options", "frozen", "held"),
    [
        ({}, set(), False),
        ({"parts": {"vision": {"freeze": True}}}, {"vision"}, False),
        ({"parts": {"vision": {"freeze": True}, "merger": {"freeze": True}}}, {"vision", "merger"}, True),
        ({"freeze_vision": True}, {"vision", "merger"}, True),
        ({"parts": {"language": {"freeze": True}}}, {"language"}, False),
        ({"parts": {"merger": {"freeze": True}, "language": {"freeze": True}}}, {"merger", "language"}, False),
    ],
)
def test_a_frozen_part_is_bit_identical_and_the_others_move(
    tiny_dir: Path, tmp_path: Path, options: dict[str, object], frozen: set[str], held: bool
) -> None:
    change, encoder = moved(tiny_dir, tmp_path, SftStage.model_validate({"tokens": 1, **options}))
    for name, size in change.items():
        assert (size == 0) is (part_of(name) in frozen), name
    assert bool(encoder.features.in_memory) is held


def test_a_part_learns_at_its_own_rate(tiny_dir: Path, tmp_path: Path) -> None:
    """Adam's first step is the rate, whatever the gradient is."""
    store = ImageStore(tmp_path)
    sample = Sample(
        id="a",
        source="t",
        task="t",
        images=[store.put(Image.new("RGB", (64, 32), (9, 200, 9)))],
        messages=[user("What colour is the circle?", 1), assistant("red green blue")],
    )
    options = SftStage.model_validate(
        {
            "tokens": 1,
            "learning_rate": 1e-3,
            "warmup": 0.0,
            "parts": {"vision": {"learning_rate": 1e-4}, "merger": {"learning_rate": 3e-3}},
        }
    )
    for optimizer in ("adamw", "muon"):
        model = Qwen3VL.from_pretrained(tiny_dir)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        section = SftSection(
            pack_tokens=64, precision="fp32", weight_decay=0, lr_schedule="constant", optimizer=optimizer
        )
        fit(model, Encoder(Processor.from_pretrained(tiny_dir), store), [sample], section, options)
        for name, expected in (
            ("vision.blocks.0.norm1.weight", 1e-4),
            ("vision.merger.norm.weight", 3e-3),
            ("text.norm.weight", 1e-3),
        ):
            change = (dict(model.named_parameters())[name].detach() - before[name]).abs()
            assert float(change.median()) == pytest.approx(expected, rel=0.05), (optimizer, name)


def test_rates_of_parts_stay_in_proportion_at_every_step(tiny_dir: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    factors = {id(p): 0.25 for p in model.part_parameters("merger")}
    optimizer = training.adamw(model, 1e-3, factors=factors)
    for rate in (1e-3, 2e-4):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        training.step(model, optimizer, rate, 1.0)
        for group in optimizer.param_groups:
            own = {factors.get(id(p), 1.0) for p in group["params"]}
            assert own == {group["lr"] / rate}


def test_rules_of_parts() -> None:
    def faults(knowledge: dict[str, object], **section: object) -> list[str]:
        sft = SftSection.model_validate({"knowledge": knowledge, **section})
        found = [*recipe_sft.contradictions(sft), *((loc, text) for loc, text, _ in recipe_sft.idle(sft))]
        return [".".join(map(str, loc)) for loc, _ in found]

    rate, freeze = {"learning_rate": 1e-5}, {"freeze": True}
    assert faults({"parts": {"vision": freeze, "merger": rate}}) == []
    assert faults({"parts": {"vision": freeze | rate}}) == ["sft.knowledge.parts.vision.learning_rate"]
    assert faults({"freeze_vision": True, "parts": {"merger": rate}}) == ["sft.knowledge.parts.merger.learning_rate"]
    assert faults({"freeze_vision": True, "parts": {"language": freeze}}) == ["sft.knowledge.parts"]
    assert faults({"parts": {"vision": freeze}}, lora_rank=2) == ["sft.knowledge.parts.vision.freeze"]
    assert faults({"parts": {"language": freeze}}, lora_rank=2) == ["sft.knowledge.parts.language.freeze"]
    assert faults({"parts": {"vision": freeze}}, vision_cache_gib=1.0) == ["sft.vision_cache_gib"]
    assert faults({"parts": {"vision": freeze, "merger": freeze}}, vision_cache_gib=1.0) == []
    everywhere = {name: {"parts": {"vision": freeze}} for name in recipe_sft.STAGES}
    assert faults(everywhere["knowledge"], recompute_vision="op") == []
    rest = {name: everywhere[name] for name in ("ability", "preference")}
    assert faults(everywhere["knowledge"], recompute_vision="op", **rest) == ["sft.recompute_vision"]
    assert faults({}, lr_decay=0.1) == ["sft.lr_decay"]
    assert faults({}, lr_decay=0.1, lr_schedule="wsd") == []
