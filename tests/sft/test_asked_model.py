"""The model that is asked while many processes train it: by itself, what products read in their type, as it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from looped import Bench

from open4ov import asking
from open4ov.engine.half import products
from open4ov.model import Pack, Qwen3VL, lora, pack
from open4ov.recipe import Recipe
from open4ov.sample import assistant, user
from open4ov.sft import pupil
from open4ov.sft.trainer import _School
from open4ov.store import ImageStore


class Led(_School):
    """Of a stage that many processes train, what `asked` reads."""

    def __init__(self, recipe: Recipe, model: Qwen3VL, start: Path, bench: Bench) -> None:
        self.run = cast(Any, type("Run", (), {"recipe": recipe, "seed": 3}))
        self.model, self.start, self.encoder, self.leader = model, start, bench.encoder(), cast(Any, object())


def logits(model: Qwen3VL, batch: Pack, half: bool) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return model.logits(model.hidden_states(batch))


def words(bench: Bench) -> Pack:
    return pack([bench.encoder().processor.encode([user("What is this?"), assistant("one two three")], [])])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rank", [0, 2])
def test_it_says_what_the_trained_model_says(tiny_dir: Path, tmp_path: Path, precision: str, rank: int) -> None:
    recipe = Recipe.model_validate({"name": "x", "sft": {"precision": precision, "lora_rank": rank}})
    bench, half = Bench(tiny_dir, ImageStore(tmp_path)), precision == "bf16"
    batch = words(bench)
    begun = Led(recipe, pupil.skeleton(tiny_dir, recipe.sft, 3), tiny_dir, bench)
    plain = Qwen3VL.from_pretrained(tiny_dir)
    assert logits(begun.asked(), batch, half).equal(logits(plain, batch, half))
    trained = pupil.load(tiny_dir, recipe.sft, 3)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    found = Led(recipe, trained, tiny_dir, bench).asked()
    assert logits(found, batch, half).equal(logits(trained, batch, half))
    assert any(map(lora.is_adapter, before)) == bool(rank)
    held = {found.get_parameter(name).dtype for name in products(found)}
    assert held == {torch.bfloat16 if half else torch.float32}
    assert all(value.equal(before[name]) for name, value in trained.state_dict().items())


def test_a_model_of_a_folder_says_the_same(tiny_dir: Path, tmp_path: Path) -> None:
    batch = words(Bench(tiny_dir, ImageStore(tmp_path)))
    plain = logits(Qwen3VL.from_pretrained(tiny_dir), batch, True)
    assert logits(asking.model_of(tiny_dir, "bf16", "cpu"), batch, True).equal(plain)
    assert logits(asking.made_ready(Qwen3VL.from_pretrained(tiny_dir), "bf16", "cpu"), batch, True).equal(plain)
