"""Blocks, pieces of prompts, prefixes that are found, and sequences that must wait again: never another answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_generate import mixed_requests, picture

from open4ov.engine import Engine, Request
from open4ov.engine.blocks import BlockPool, block_key, root_key
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import assistant, user


@pytest.fixture(scope="module")
def parts(tiny_dir: Path) -> tuple[Qwen3VL, Processor]:
    return Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)


def tokens(engine: Engine, requests: list[Request]) -> list[list[list[int]]]:
    return [[completion.token_ids for completion in answers] for answers in engine.generate(requests)]


def counted(engine: Engine) -> list[int]:
    """The tokens of every forward pass from now on."""
    seen: list[int] = []
    forward = engine.model.hidden_states

    def count(*args: object, **kwargs: object) -> torch.Tensor:
        hidden = forward(*args, **kwargs)  # type: ignore[arg-type]
        seen.append(len(hidden))
        return hidden

    engine.model.hidden_states = count  # type: ignore[method-assign]
    return seen


@pytest.fixture
def restored(parts: tuple[Qwen3VL, Processor]):
    yield parts
    vars(parts[0]).pop("hidden_states", None)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "n": 2}], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    "engine", [{"step_tokens": 3, "max_batch": 3}, {"block_size": 1}, {"block_size": 7, "kv_tokens": 105}]
)
def test_pieces_and_blocks_of_any_size_answer_alike(
    parts: tuple[Qwen3VL, Processor], engine: dict[str, int], options: dict[str, object]
) -> None:
    requests = mixed_requests(**options)
    plain = Engine(*parts, max_batch=1)
    assert tokens(Engine(*parts, **engine), requests) == tokens(plain, requests)


def test_a_sequence_that_waits_again_goes_on_as_before(parts: tuple[Qwen3VL, Processor]) -> None:
    requests = [Request([user(f"count {i}", i % 2)], [picture(i)] * (i % 2), max_tokens=40) for i in range(6)]
    narrow = Engine(*parts, kv_tokens=160, block_size=4)
    found = tokens(narrow, requests)
    assert narrow.scheduler.preempted > 0
    assert narrow.pool.available == narrow.pool.count
    assert found == tokens(Engine(*parts), requests)


def test_a_second_turn_computes_only_what_is_new(restored: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(*restored, block_size=4)
    first = [user("What colour is the circle? " * 6, 1)]
    answer = engine.generate([Request(first, [picture(1)], max_tokens=4)])[0][0]
    turns = [*first, assistant(answer.text), user("and now?")]
    seen = counted(engine)
    again = engine.generate([Request(turns, [picture(1)], max_tokens=1)])[0][0]
    prompt = len(engine.processor.encode(turns, [picture(1)], generate=True))
    assert sum(seen) < prompt / 2
    assert again.token_ids == Engine(*restored).generate([Request(turns, [picture(1)], max_tokens=1)])[0][0].token_ids
    assert engine.vision_cache.statistics.misses == 1


def test_the_same_words_about_another_picture_share_nothing(restored: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(*restored, block_size=4)
    seen = counted(engine)
    results = [engine.generate([Request([user("What?", 1)], [picture(i)], max_tokens=1)])[0][0] for i in (1, 2, 1)]
    assert results[0].log_probs != results[1].log_probs
    assert results[0].log_probs == pytest.approx(results[2].log_probs, abs=1e-5)
    assert seen[1] > seen[0] / 2 > seen[2]


def test_a_request_given_up_leaves_no_trace(parts: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(*parts, max_batch=2)
    kept, dropped, waiting = (engine.add(Request([user(word)], max_tokens=9)) for word in ("one", "two", "three"))
    found: list[int] = []
    for step in range(40):
        for one in engine.step():
            assert one.number != waiting or step > 3
            if one.number == kept and one.finish_reason:
                found = one.sampled
        if step == 3:
            engine.abort(dropped)
    assert not engine.busy
    assert engine.pool.available == engine.pool.count
    assert found == Engine(*parts).generate([Request([user("one")], max_tokens=9)])[0][0].token_ids
    engine.abort(kept)


def test_a_stream_that_is_left_gives_its_blocks_back(parts: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(*parts)
    stream = engine.stream(Request([user("one two three")], max_tokens=30))
    next(stream)
    stream.close()
    assert not engine.busy
    assert engine.pool.available == engine.pool.count


CHANGES: dict[str, Callable[[Engine, Qwen3VL], object]] = {
    "told": lambda engine, other: engine.update_weights(other.state_dict()),
    "not told": lambda engine, other: [
        p.data.copy_(q.data) for p, q in zip(engine.model.parameters(), other.parameters(), strict=True)
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_prefix_of_old_weights_is_used(parts: tuple[Qwen3VL, Processor], change: str) -> None:
    engine = Engine(Qwen3VL(parts[0].config, seed=9), parts[1], block_size=4)
    request = Request([user("one two three", 1)], [picture(1)], max_tokens=8)
    engine.generate([request])
    CHANGES[change](engine, parts[0])
    assert tokens(engine, [request]) == tokens(Engine(*parts), [request])
    assert engine.weight_version == 1


def test_new_weights_among_completions_under_way(parts: tuple[Qwen3VL, Processor]) -> None:
    """What they have seen is computed anew: the next token is what the new weights say after those so far."""
    engine = Engine(Qwen3VL(parts[0].config, seed=9), parts[1])
    number = engine.add(Request([user("one two three")], max_tokens=6))
    for _ in range(3):
        engine.step()
    engine.update_weights(parts[0].state_dict())
    sampled = [one.sampled for _ in range(3) for one in engine.step() if one.number == number][-1]
    document = engine.processor.encode([user("one two three")], [], generate=True)
    ids = torch.cat([document.input_ids, torch.tensor(sampled[:3])])
    with torch.no_grad():
        from open4ov.model import pack
        from open4ov.rl.rollout import extended

        hidden = parts[0].hidden_states(pack([extended(document, sampled[:3])]))
        assert int(parts[0].logits(hidden[len(ids) - 1]).argmax()) == sampled[3]


def test_errors_in_one_request_cancel_the_call_and_nothing_is_left(parts: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(*parts, kv_tokens=64)
    with pytest.raises(ValueError, match="request 1"):
        engine.generate([Request([user("one")], max_tokens=4), Request([user("two " * 90)], max_tokens=4)])
    assert not engine.busy
    with pytest.raises(ValueError, match="image part refers"):
        engine.generate([Request([user("what", 1)], [], max_tokens=4)])
    assert tokens(engine, [Request([user("one")], max_tokens=4)])


def test_names_of_blocks() -> None:
    root = root_key(1, "options")
    assert block_key(root, [1, 2]) != block_key(root, [2, 1])
    assert block_key(root, [1, 2]) != block_key(root_key(2, "options"), [1, 2])
    assert block_key(root, [1, 2], "a:0") != block_key(root, [1, 2], "b:0")
    assert block_key(block_key(root, [1]), [2]) != block_key(root, [2])


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["take", "share", "name", "release"]), st.integers(0, 5)), max_size=60))
def test_a_pool_loses_and_invents_no_block(actions: list[tuple[str, int]]) -> None:
    """Against a model of it in plain dictionaries: users of each block, and what each name must find."""
    pool = BlockPool(4, 2)
    users: dict[int, int] = {}
    for action, number in actions:
        key = bytes([number])
        if action == "take" and pool.available:
            block = pool.take()
            assert not users.get(block)
            users[block] = 1
            assert all(pool._by_key[k] != block for k in pool._by_key)
        elif action == "share":
            block = pool.share(key)
            if block is not None:
                assert key in pool._names[block]
                users[block] = users.get(block, 0) + 1
        elif action in ("name", "release"):
            held = sorted(block for block, count in users.items() if count)
            if held and action == "name":
                pool.name(held[number % len(held)], key)
            elif held:
                block = held[number % len(held)]
                pool.release([block])
                users[block] -= 1
        assert pool.available == pool.count - sum(count > 0 for count in users.values())


def test_a_found_block_outlives_what_comes_after_it() -> None:
    pool = BlockPool(3, 2)
    blocks = [pool.take() for _ in range(3)]
    for number, block in enumerate(blocks):
        pool.name(block, bytes([number]))
    pool.release(blocks)
    pool.take()
    assert pool.share(bytes([2])) is None
    assert pool.share(bytes([0])) == blocks[0]
    assert pool.share(bytes([1])) == blocks[1]


def test_pictures_cut_by_pieces(parts: tuple[Qwen3VL, Processor]) -> None:
    """A prompt of several large pictures, in steps of five tokens."""
    images: list[Image.Image] = [picture(i, (96, 96)) for i in range(3)]
    request = Request([user("Compare.", 3)], images, max_tokens=6)
    assert tokens(Engine(*parts, step_tokens=5, max_batch=2), [request]) == tokens(Engine(*parts), [request])


def test_the_same_prompt_again_when_it_fills_every_block(parts: tuple[Qwen3VL, Processor]) -> None:
    """The block to copy from is the very one that is needed."""
    request = Request([user("one two three")], max_tokens=1)
    length = len(parts[1].encode(request.messages, [], generate=True)) + 1
    for size in range(2, 10):
        engine = Engine(*parts, block_size=size, kv_tokens=-(-length // size) * size)
        answers = [tokens(engine, [request]) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2] == tokens(Engine(*parts), [request])
        assert engine.pool.available == engine.pool.count


def test_other_options_of_the_processor_share_nothing(parts: tuple[Qwen3VL, Processor]) -> None:
    model, plain = parts
    processor = Processor(plain.tokenizer, plain.images, plain.files)
    engine = Engine(model, processor, block_size=4)
    request = Request([user("What?", 1)], [picture(1)], max_tokens=1)
    before = engine.generate([request])[0][0].log_probs
    processor.images = replace(processor.images, mean=(0.1, 0.1, 0.1))
    after = engine.generate([request])[0][0].log_probs
    assert after != before
    assert after == pytest.approx(Engine(model, processor).generate([request])[0][0].log_probs, abs=1e-5)


def test_without_a_watch_new_weights_come_by_update_only(parts: tuple[Qwen3VL, Processor]) -> None:
    engine = Engine(Qwen3VL(parts[0].config, seed=9), parts[1], block_size=4, watch=False)
    request = Request([user("one two three", 1)], [picture(1)], max_tokens=8)
    engine.generate([request])
    engine.update_weights(parts[0].state_dict())
    assert tokens(engine, [request]) == tokens(Engine(*parts), [request])
    assert engine.vision_cache.statistics.misses == 2
