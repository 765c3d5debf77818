"""A head that is the embedding, in an engine that computes in bf16: cast once for all steps by the same weights."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from casts import Casts
from test_generate import mixed_requests
from tiny import tiny_config

from open4ov.engine import Completion, Engine, Request
from open4ov.engine.half import Head, in_half
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user

HALF = torch.bfloat16
WORDS = "text.embed.weight"
ASKED = Request([user("count")], max_tokens=6, ignore_eos=True)
Parts = tuple[Qwen3VL, Processor]


@pytest.fixture
def parts(tiny_dir: Path) -> Parts:
    """Weights as an engine holds them that nobody trains: autocast keeps nothing of what it casts of them."""
    model = Qwen3VL.from_pretrained(tiny_dir).requires_grad_(False)
    in_half(model, HALF)
    return model, Processor.from_pretrained(tiny_dir)


def stepped(engine: Engine) -> Completion:
    """The answer to ASKED as a server comes to it: each step computes in a context of its own."""
    number = engine.add(ASKED)
    while True:
        for one in engine.step():
            if one.number == number and one.finish_reason:
                return engine.completion(one)


def said(found: list[list[Completion]]) -> list[tuple[list[int], list[float]]]:
    return [(one.token_ids, one.log_probs) for group in found for one in group]


@pytest.mark.parametrize("still", [False, True], ids=["steps", "steps of one shape"])
def test_it_is_cast_once_for_each_weights(parts: Parts, still: bool) -> None:
    engine = Engine(*parts, autocast=HALF)
    engine._decoding.on = still
    with Casts(parts[0]) as casts:
        for _ in range(2):
            assert len(stepped(engine).token_ids) == len(engine.generate([ASKED])[0][0].token_ids) == 6
        assert casts.counts[WORDS] == 1
        engine.update_weights({name: value * 1.25 for name, value in parts[0].state_dict().items()})
        engine.generate([ASKED, ASKED])
        assert casts.counts[WORDS] == 2


def test_it_gives_the_bits_that_autocast_gives(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[tuple[list[int], list[float]]]] = []
    for own in (True, False):
        if not own:
            monkeypatch.setattr(Head, "logits", lambda self, hidden: self.model.logits(hidden))
        engine = Engine(*parts, autocast=HALF)
        with Casts(parts[0]) as casts:
            found.append(said(engine.generate(mixed_requests(temperature=0.8, n=2))))
        assert (casts.counts[WORDS] == 1) is own
    assert found[0] == found[1]


def test_words_that_were_trained_in_place_count(parts: Parts) -> None:
    """Nobody says so; also of the words alone."""
    engine = Engine(*parts, autocast=HALF)
    before = said(engine.generate([ASKED]))
    with torch.no_grad():
        parts[0].text.embed.weight.mul_(1.5)
    after = said(engine.generate([ASKED]))
    assert after == said(Engine(*parts, autocast=HALF).generate([ASKED])) != before


def test_its_copy_is_given_up_with_keys_and_values(parts: Parts) -> None:
    engine = Engine(*parts, autocast=HALF)
    engine.generate([ASKED])
    assert engine._head._copy is not None
    held = weakref.ref(engine._head._copy)
    engine.release()
    assert held() is None


def test_a_head_of_its_own_needs_no_copy(tiny_dir: Path) -> None:
    processor = Processor.from_pretrained(tiny_dir)
    model = Qwen3VL(tiny_config(processor, False), seed=2).requires_grad_(False)
    in_half(model, HALF)
    engine = Engine(model, processor, autocast=HALF)
    with Casts(model) as casts:
        engine.generate([ASKED])
    assert casts.counts[WORDS] == 0
    assert engine._head._copy is None
