"""What is computed ahead of a request: found by it, held for it, and given up when others need the blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_generate import picture

from open4ov.engine import Engine, Request
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user

ASKED = Request([user("What colour is the circle? " * 4, 1)], [picture(1)], max_tokens=6)


@pytest.fixture(scope="module")
def parts(tiny_dir: Path) -> tuple[Qwen3VL, Processor]:
    return Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)


def ahead(engine: Engine, request: Request, tokens: int) -> int:
    """Computes and holds; the request's number."""
    number = engine.add(replace(request, ahead=tokens, max_tokens=1))
    found = [one.number for _ in range(20) for one in engine.step()]
    assert found == [number]
    assert not engine.busy
    return number


@pytest.mark.parametrize("steps", [{}, {"step_tokens": 5, "max_batch": 2}])
def test_the_request_finds_it_and_answers_alike(parts: tuple[Qwen3VL, Processor], steps: dict[str, int]) -> None:
    engine = Engine(*parts, block_size=4, **steps)
    prompt = len(engine.processor.encode(ASKED.messages, ASKED.images, generate=True))
    number = ahead(engine, ASKED, 24)
    assert engine.pool.count - engine.pool.available == 6
    assert engine.scheduler.prompt_tokens == 24
    answer = engine.generate([ASKED])[0][0]
    assert engine.scheduler.found_tokens == 24 < prompt
    assert engine.vision_cache.statistics.misses == 1
    assert answer.token_ids == Engine(*parts).generate([ASKED])[0][0].token_ids
    assert engine.pool.count - engine.pool.available == 6  # still held
    engine.abort(number)
    engine.abort(number)
    assert engine.pool.available == engine.pool.count


@pytest.mark.parametrize("tokens", [8, 24, 60])
def test_what_is_held_keeps_no_features(parts: tuple[Qwen3VL, Processor], tokens: int) -> None:
    """They would be beside the cache's limit, for as long as a session stays open."""
    engine = Engine(*parts, block_size=4, step_tokens=5, max_batch=2)
    number = ahead(engine, replace(ASKED, images=[picture(3)]), tokens)
    held = engine.scheduler.held[number]
    assert held.features is None
    engine.abort(number)


def test_nothing_is_computed_twice_nor_sampled(
    parts: tuple[Qwen3VL, Processor], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(*parts, block_size=4)
    seen: list[int] = []
    forward = engine.model.hidden_states

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        hidden = forward(*args, **kwargs)  # type: ignore[arg-type]
        seen.append(len(hidden))
        return hidden

    monkeypatch.setattr(engine.model, "hidden_states", counted)
    monkeypatch.setattr(engine.model, "logits", lambda *_: pytest.fail("something was sampled"))
    numbers = [ahead(engine, ASKED, tokens) for tokens in (12, 12, 24)]
    assert seen == [12, 12]
    assert engine.pool.count - engine.pool.available == 6
    both = [engine.add(replace(ASKED, images=[picture(2)], ahead=16, max_tokens=1)) for _ in range(2)]
    assert sorted(one.number for _ in range(4) for one in engine.step()) == both
    assert seen == [12, 12, 12]  # their first four tokens are those before the picture
    for number in [*numbers, *both]:
        engine.abort(number)
    assert engine.pool.available == engine.pool.count


def test_what_is_held_is_not_taken_but_given_up_before_anybody_waits(parts: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(*parts, kv_tokens=128, block_size=4)
    first = ahead(engine, ASKED, 24)
    others = [replace(ASKED, images=[picture(seed)]) for seed in range(2, 5)]
    ahead(engine, others[0], 40)
    ahead(engine, others[1], 40)  # all three fit
    assert engine.scheduler.lost_tokens == 0
    ahead(engine, others[2], 40)  # this one only without the first
    assert engine.scheduler.lost_tokens == 24
    assert len(engine.scheduler.held) == 3
    large = Request([user("one two three " * 3)], max_tokens=70)
    assert engine.generate([large])[0][0].token_ids == Engine(*parts).generate([large])[0][0].token_ids
    assert engine.scheduler.preempted == 0
    assert engine.scheduler.lost_tokens > 24
    for number in list(engine.scheduler.held):
        engine.abort(number)
    engine.abort(first)
    assert engine.pool.available == engine.pool.count


def test_new_weights_give_up_what_is_held(parts: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(Qwen3VL(parts[0].config, seed=9), parts[1], block_size=4)
    ahead(engine, ASKED, 24)
    engine.update_weights(parts[0].state_dict())
    assert engine.pool.available == engine.pool.count
    assert engine.generate([ASKED])[0][0].token_ids == Engine(*parts).generate([ASKED])[0][0].token_ids
    assert engine.scheduler.found_tokens == 0


def test_given_up_while_it_waits_or_is_computed(parts: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(*parts, block_size=4, step_tokens=8, max_batch=1)
    running, waiting = (engine.add(replace(ASKED, images=[picture(i)], ahead=24, max_tokens=1)) for i in (1, 2))
    assert engine.step() == []
    engine.abort(waiting)
    engine.abort(running)
    assert not engine.busy
    assert engine.pool.available == engine.pool.count


@pytest.mark.parametrize("options", [{"ahead": -1}, {"ahead": 4, "n": 2}, {"ahead": 4, "prompt_log_probs": True}])
def test_senseless_ones_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="ahead"):
        Request([user("x")], **options)  # type: ignore[arg-type]


def test_they_have_no_completion_to_wait_for(parts: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(*parts)
    with pytest.raises(ValueError, match="ahead"):
        engine.generate([replace(ASKED, ahead=4)])
    with pytest.raises(ValueError, match="ahead"):
        next(engine.stream(replace(ASKED, ahead=4)))


def test_the_end_of_what_was_computed_ahead_is_found_inside_a_block(parts: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(*parts)
    numbers = [ahead(engine, ASKED, tokens) for tokens in (10, 10, 21)]
    assert (engine.scheduler.prompt_tokens, engine.scheduler.found_tokens) == (41, 20)
    other = replace(ASKED, messages=[user("How many? " * 4, 1)])
    for request, found in ((ASKED, 21), (other, 10), (replace(ASKED, images=[picture(2)]), 0)):
        before = engine.scheduler.found_tokens
        answer = engine.generate([request])[0][0]
        assert engine.scheduler.found_tokens - before == found
        assert answer.token_ids == Engine(*parts).generate([request])[0][0].token_ids
    for number in numbers:
        engine.abort(number)
    assert engine.pool.available == engine.pool.count
