"""The shipped nano base: small enough, loadable by transformers, and able to see."""

from __future__ import annotations

import torch
from oracle import conversations, inputs, reference

from open4ov import assets
from open4ov.corpora import generate
from open4ov.engine import Engine, Request
from open4ov.evaluate.metrics import RULES
from open4ov.model import Processor, Qwen3VL, pack

NANO = assets.base_dir("nano")


def test_it_is_as_small_as_promised() -> None:
    assert (NANO / "model.safetensors").stat().st_size <= 24_000_000
    assert 8e6 <= sum(p.numel() for p in Qwen3VL.from_pretrained(NANO).parameters()) <= 12e6


def test_transformers_loads_it_and_gives_the_same_logits() -> None:
    processor, model, oracle = Processor.from_pretrained(NANO), Qwen3VL.from_pretrained(NANO), reference(NANO)
    for name, documents in conversations(processor).items():
        with torch.no_grad():
            theirs = oracle(**inputs(documents, processor)).logits
            theirs = torch.cat([row[: len(d)] for row, d in zip(theirs, documents, strict=True)])
            ours = model.logits(model.hidden_states(pack(documents)))
        assert float((ours - theirs).abs().max()) <= 1e-4, name


def test_it_sees_colours() -> None:
    items = list(generate("colour", "test", 60))
    engine = Engine(Qwen3VL.from_pretrained(NANO), Processor.from_pretrained(NANO))
    answers = engine.generate([Request(item.sample.messages[:1], item.images, max_tokens=8) for item in items])
    right = [
        RULES["exact"](answer[0].text, (item.sample.answer or "", *item.sample.aliases), ())
        for answer, item in zip(answers, items, strict=True)
    ]
    assert sum(right) >= 38, "ten colours: a blind guess is right six times, the shipped model about 45"
