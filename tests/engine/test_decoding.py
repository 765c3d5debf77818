"""Decoding steps in shapes that stay: the same answers as steps as they come; on a GPU, by graphs too."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_generate import mixed_requests, picture

from open4ov.engine import Completion, Engine, Request
from open4ov.engine.decoding import Recorded, Step
from open4ov.engine.half import in_half
from open4ov.engine.quantize import load, quantize
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
Parts = tuple[Qwen3VL, Processor]


@pytest.fixture(scope="module", params=["dense", "experts"])
def parts(request: pytest.FixtureRequest, tiny_dir: Path) -> Parts:
    return build(request.param, tiny_dir), Processor.from_pretrained(tiny_dir)


def build(kind: str, tiny_dir: Path) -> Qwen3VL:
    if kind == "dense":
        return Qwen3VL.from_pretrained(tiny_dir)
    config = Qwen3VL.from_pretrained(tiny_dir).config
    experts = replace(config.text, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    return Qwen3VL(replace(config, text=experts), seed=3)


def still(parts: Parts, **options: object) -> Engine:
    """An engine whose decoding steps keep their shapes, on a CPU as well."""
    engine = Engine(*parts, **options)  # type: ignore[arg-type]
    engine._decoding.on = True
    return engine


def pairs(found: list[list[Completion]], expected: list[list[Completion]]) -> Iterator[tuple[Completion, Completion]]:
    for own, theirs in zip(found, expected, strict=True):
        yield from zip(own, theirs, strict=True)


def alike(found: list[list[Completion]], expected: list[list[Completion]], apart: float = 1e-4) -> None:
    for own, theirs in pairs(found, expected):
        assert own.token_ids == theirs.token_ids
        assert own.log_probs == pytest.approx(theirs.log_probs, abs=apart)


def played(monkeypatch: pytest.MonkeyPatch, look: Callable[[], object] = lambda: None) -> list[tuple[Recorded, object]]:
    """Every step that is played from now on, with what `look` gives then."""
    seen: list[tuple[Recorded, object]] = []
    play = Recorded.play

    def counted(one: Recorded, step: Step) -> torch.Tensor:
        seen.append((one, look()))
        return play(one, step)

    monkeypatch.setattr(Recorded, "play", counted)
    return seen


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "n": 2}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("held", [{}, {"max_batch": 3}, {"block_size": 7, "kv_tokens": 105}])
def test_shapes_that_stay_change_no_answer(
    parts: Parts, held: dict[str, int], options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = mixed_requests(**options)
    expected = Engine(*parts, **held).generate(requests)  # type: ignore[arg-type]
    counts = played(monkeypatch)
    alike(still(parts, **held).generate(requests), expected)
    assert counts


def test_weights_that_come_half_way_count(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded is of the old weights' memory only until they change."""
    asked = Request([user("count", 1)], [picture(1)], max_tokens=12, ignore_eos=True)
    other = {name: value * 1.25 for name, value in parts[0].state_dict().items()}
    own = {name: value.clone() for name, value in parts[0].state_dict().items()}
    found: list[list[int]] = []
    for engine in (Engine(*parts), still(parts)):
        steps = played(monkeypatch, lambda engine=engine: engine.weight_version)
        number = engine.add(asked)
        for _ in range(5):
            engine.step()
        engine.update_weights(other)
        done = [one for _ in range(20) for one in engine.step() if one.number == number and one.finish_reason]
        engine.update_weights(own)
        found.append(done[0].sampled)
    assert found[0] == found[1]
    assert {version for _, version in steps} == {0, 1}
    assert not {one for one, version in steps if not version} & {one for one, version in steps if version}


def test_what_is_recorded_is_of_one_memory(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = still(parts, max_batch=4)
    engine._rows.grow = 4
    steps = played(monkeypatch, lambda: (engine._rows.keys, engine._store.keys))
    engine.generate(mixed_requests())
    of: dict[Recorded, object] = {}
    for one, memory in steps:
        assert all(a is b for a, b in zip(of.setdefault(one, memory), memory, strict=True))  # type: ignore[arg-type, call-overload]
    assert len({id(keys) for _, (keys, _) in steps}) > 3  # type: ignore[misc]


@pytest.mark.parametrize("held", [True, False], ids=["held in half", "cast"])
def test_a_step_keeps_nothing_in_the_cache_of_all_threads(
    tiny_dir: Path, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another thread leaves autocast, it is empty. Weights that are cast all the time must lie there still."""
    half = torch.bfloat16
    model = load(tiny_dir, half=half) if held else Qwen3VL.from_pretrained(tiny_dir)
    processor = Processor.from_pretrained(tiny_dir)
    expected = Engine(model, processor, autocast=half).generate(mixed_requests())
    engine = still((model, processor), autocast=half)
    steps, seen = played(monkeypatch), list[tuple[int, bool]]()
    forward = model.hidden_states

    def noted(*args: object) -> torch.Tensor:
        seen.append((len(steps), torch.is_autocast_cache_enabled()))
        return forward(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "hidden_states", noted)
    alike(engine.generate(mixed_requests()), expected, 0.05)
    recorded = {kept for (before, _), (now, kept) in pairwise([(0, True), *seen]) if now > before}
    assert recorded == {not held}


def test_what_autocast_has_cast_is_used_inside_one_context_only(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of it the copies are gone after every step, and a graph would read what is not theirs any more."""
    counts = played(monkeypatch)
    engine = still(parts, autocast=torch.bfloat16)
    asked = Request([user("count")], max_tokens=6, ignore_eos=True)
    number = engine.add(asked)
    while not any(one.number == number and one.finish_reason for one in engine.step()):
        pass
    assert not counts
    engine.generate([asked])
    assert counts


def test_nothing_that_was_recorded_keeps_memory(parts: Parts) -> None:
    """Keys and values make room for a training on the same card (`rl.rollout.offload`)."""
    engine = still(parts)
    engine.add(Request([user("count")], max_tokens=8, ignore_eos=True))
    for _ in range(4):
        engine.step()
    assert engine._decoding._steps
    held = [weakref.ref(engine._rows.keys), weakref.ref(engine._store.keys)]
    while engine.busy:
        engine.step()
    engine.release()
    assert not engine._decoding._steps
    assert [one() for one in held] == [None, None]


@cuda
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "autocast", "half", "fp8"])
def test_graphs_change_no_answer(parts: Parts, tiny_dir: Path, kind: str) -> None:
    model = build("experts" if parts[0].config.text.num_experts else "dense", tiny_dir).cuda()
    if kind in ("bfloat16", "fp8"):
        model = model.to(torch.bfloat16)
    if kind == "fp8":
        quantize(model, "fp8")
    if kind == "half":
        in_half(model, torch.bfloat16)
    half = torch.bfloat16 if kind in ("autocast", "half") else None
    for options in ({}, {"temperature": 0.8, "n": 3}):
        requests = mixed_requests(**options)
        plain, graphs = (Engine(model, parts[1], autocast=half, graphs=on, watch=False) for on in (False, True))
        expected = plain.generate(requests)
        for _ in range(2):  # again, from graphs that were made anew
            found = graphs.generate(requests)
            if kind == "float32":
                alike(found, expected, 1e-3)
            else:  # other numbers of rows round otherwise, and a token may turn
                both = list(pairs(found, expected))
                assert all(abs(a.log_probs[0] - b.log_probs[0]) < 0.1 for a, b in both)
                assert sum(a.token_ids[:4] == b.token_ids[:4] for a, b in both) >= len(both) / 2
