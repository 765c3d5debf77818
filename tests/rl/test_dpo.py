from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import DpoSection
from open4ov.rl import dpo
from open4ov.sample import Sample, assistant, user

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rl.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["dpo"])
def test_golden(case: dict[str, float]) -> None:
    value, figures = dpo.loss(
        torch.tensor([float(case["chosen"])]), torch.tensor([float(case["rejected"])]), case["beta"]
    )
    assert value.item() == pytest.approx(case["loss"], abs=1e-6)
    assert figures["accuracy"] == float(case["chosen"] > case["rejected"])


def test_nll_is_a_mean_over_tokens_and_wants_lengths() -> None:
    chosen, rejected = torch.tensor([-20.0, -3.0]), torch.tensor([-25.0, -8.0])
    plain, _ = dpo.loss(chosen, rejected, 0.1)
    value, figures = dpo.loss(chosen, rejected, 0.1, 0.5, torch.tensor([10, 3]))
    assert value.item() == pytest.approx(plain.item() + 0.5 * 1.5)
    assert figures["nll"] == pytest.approx(1.5)
    with pytest.raises(ValueError, match="chosen_lengths"):
        dpo.loss(chosen, rejected, 0.1, 0.5)


def test_training_prefers_the_chosen_and_leaves_the_tower(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    red = Image.new("RGB", (64, 64), (220, 30, 30))
    asked = "What colour is the circle?"
    base = Sample(id="seen", source="t", task="colour", images=["red"])
    pairs = [
        base.model_copy(update={"messages": [user(asked, images=1), assistant("red")], "rejected": [assistant("no")]}),
        base.model_copy(
            update={
                "id": "missing",
                "images": [],
                "messages": [user(asked), assistant("no")],
                "rejected": [assistant("red")],
            }
        ),
    ]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    section = DpoSection(epochs=40, batch=2, learning_rate=2e-3, beta=0.5)
    curve = dpo.fit(model, processor, pairs, lambda _: red, section, seed=0)
    assert len(curve) == 40
    assert curve[0]["loss"] > 2 * curve[-1]["loss"]
    assert curve[-1]["accuracy"] == 1.0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("vision."), name


def test_a_sample_without_a_rejected_response_is_refused(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    sample = Sample(id="s1", source="t", task="t", messages=[user("?"), assistant("!")])
    with pytest.raises(ValueError, match="s1 is no preference pair"):
        dpo.fit(model, processor, [sample], lambda _: Image.new("RGB", (32, 32)), DpoSection(), seed=0)
