"""The shipped bases, dense and with experts: small enough, loadable by transformers, and able to see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import conversations, inputs, reference

from open4ov import assets
from open4ov.corpora import dense, generate
from open4ov.engine import Engine, Request
from open4ov.evaluate.metrics import RULES
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.model.moe import Routing


@pytest.fixture(params=["nano", "nano-moe"])
def folder(request: pytest.FixtureRequest) -> Path:
    return assets.base_dir(request.param)


def test_it_is_as_small_as_promised(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_size <= 24_000_000
    assert 8e6 <= sum(p.numel() for p in Qwen3VL.from_pretrained(folder).parameters()) <= 12e6


def test_transformers_loads_it_and_gives_the_same_logits(folder: Path) -> None:
    processor, model, oracle = Processor.from_pretrained(folder), Qwen3VL.from_pretrained(folder), reference(folder)
    for name, documents in conversations(processor).items():
        with torch.no_grad():
            theirs = oracle(**inputs(documents, processor)).logits
            theirs = torch.cat([row[: len(d)] for row, d in zip(theirs, documents, strict=True)])
            ours = model.logits(model.hidden_states(pack(documents)))
        assert float((ours - theirs).abs().max()) <= 1e-4, name


def test_it_sees_colours(folder: Path) -> None:
    items = list(generate("colour", "test", 60))
    engine = Engine(Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder))
    answers = engine.generate([Request(item.sample.messages[:1], item.images, max_tokens=8) for item in items])
    right = [
        RULES["exact"](answer[0].text, (item.sample.answer or "", *item.sample.aliases), ())
        for answer, item in zip(answers, items, strict=True)
    ]
    assert sum(right) >= 38, "ten colours: a blind guess is right six times, the shipped model about 45"


def test_all_experts_are_used() -> None:
    """On general conversations every expert of every layer gets a fair part of the tokens."""
    folder = assets.base_dir("nano-moe")
    model, processor = Qwen3VL.from_pretrained(folder), Processor.from_pretrained(folder)
    items = [dense("test", index, 7) for index in range(24)]
    batch = pack([processor.encode(item.sample.messages, item.images) for item in items])
    routings: list[Routing] = []
    with torch.no_grad():
        model.hidden_states(batch, routings=routings)
    assert len(routings) == model.config.text.num_hidden_layers
    for routing in routings:
        shares = routing.counts / routing.counts.sum()
        assert float(shares.min()) > 0.25 / len(shares)
