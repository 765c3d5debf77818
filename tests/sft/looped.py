"""Samples and short trainings of the tiny model, for the tests of the training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from open4ov.model import Processor, Qwen3VL, lora
from open4ov.recipe import SftSection, SftStage
from open4ov.sample import Sample, assistant, user
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import Fit, fit
from open4ov.store import ImageStore

WORDS = ("red", "green", "blue", "yellow", "red green", "one two three", "two", "3 + 4 = 7", "left right above below")


def coloured(store: ImageStore, count: int, first: int = 0) -> list[Sample]:
    """Samples with a small picture each and answers of several lengths; each fills more than half of 64 tokens."""
    question = "What colour is the circle? How many squares are there? left right"
    samples: list[Sample] = []
    for number in range(first, first + count):
        picture = Image.new("RGB", (32, 32), (25 * number % 255, 80, 200 - 20 * (number % 9)))
        messages = [user(question, images=1), assistant(WORDS[number % len(WORDS)])]
        samples.append(Sample(id=f"s{number}", source="t", task="t", images=[store.put(picture)], messages=messages))
    return samples


class Bench:
    """A model to train, always the same at first."""

    def __init__(self, tiny_dir: Path, store: ImageStore) -> None:
        self.directory, self.store = tiny_dir, store

    def encoder(self, share: bool = True) -> Encoder:
        return Encoder(Processor.from_pretrained(self.directory), self.store, share=share)

    def model(self, lora_rank: int = 0) -> Qwen3VL:
        model = Qwen3VL.from_pretrained(self.directory)
        if lora_rank:
            lora.add(model, lora_rank)
        return model

    def train(
        self,
        samples: list[Sample],
        options: dict[str, Any] | None = None,
        model: Qwen3VL | None = None,
        stage: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> tuple[Qwen3VL, Fit]:
        """`options` of the section, `stage` of the stage."""
        section = SftSection.model_validate({"pack_tokens": 128, "precision": "fp32", **(options or {})})
        model = model or self.model(section.lora_rank)
        chosen = SftStage.model_validate({"tokens": 1, "learning_rate": 3e-3, **(stage or {})})
        return model, fit(model, self.encoder(section.share_prefix), samples, section, chosen, **arguments)


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    """Bit for bit."""
    other = b.state_dict()
    for name, value in a.state_dict().items():
        assert torch.equal(value, other[name]), name
