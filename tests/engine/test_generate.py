"""The engine against transformers' generate, against itself one by one, and its bookkeeping."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from open4ov.engine import Engine, Request
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, pack
from open4ov.rl.rollout import extended
from open4ov.sample import Message, assistant, user

QUESTIONS = ["What colour is the circle?", "How many?", "图中有几个方块？", "left or right of the red one", "1 + 2 ="]


def picture(seed: int, size: tuple[int, int] = (64, 96)) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def mixed_requests(**options: object) -> list[Request]:
    """Ten conversations: text only, one picture, two pictures of different sizes, a second turn. They end at different
    lengths, so rows leave and others take their places."""
    requests = []
    for index in range(10):
        text = QUESTIONS[index % len(QUESTIONS)]
        images = [[], [picture(index)], [picture(index), picture(3, (96, 64))]][index % 3]
        messages: list[Message] = [user(text, len(images))]
        if index % 4 == 3:
            messages += [assistant("three"), user("and now?")]
        max_tokens = 4 + 5 * index % 9
        requests.append(Request(messages, images, max_tokens, seed=index, **options))  # type: ignore[arg-type]
    return requests


@pytest.fixture(scope="module")
def parts(tiny_dir: Path) -> tuple[Qwen3VL, Processor]:
    return Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)


@pytest.fixture
def engine(parts: tuple[Qwen3VL, Processor]) -> Engine:
    return Engine(*parts, max_batch=4)


def test_greedy_equals_transformers(tiny_dir: Path, engine: Engine) -> None:
    transformers = pytest.importorskip("transformers")
    oracle = transformers.Qwen3VLForConditionalGeneration.from_pretrained(tiny_dir, dtype=torch.float32)
    requests = mixed_requests()
    for request, (completion,) in zip(requests, engine.generate(requests), strict=True):
        encoded = engine.processor.encode(request.messages, request.images, generate=True)
        ids = encoded.input_ids[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if request.images:
            image_tokens = (ids == engine.processor.image_id).int()
            inputs |= {
                "pixel_values": encoded.pixels,
                "image_grid_thw": encoded.grids,
                "mm_token_type_ids": image_tokens,
            }
        eos, pad = engine.processor.eos_id, engine.processor.pad_id
        wanted = oracle.generate(
            **inputs, max_new_tokens=request.max_tokens, do_sample=False, eos_token_id=eos, pad_token_id=pad
        )
        assert completion.token_ids == wanted[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batch_equals_single(engine: Engine, temperature: float) -> None:
    requests = mixed_requests(n=2, temperature=temperature, top_p=0.9)
    together = engine.generate(requests)
    for request, completions in zip(requests, together, strict=True):
        (alone,) = Engine(engine.model, engine.processor, max_batch=1).generate([request])
        assert [c.token_ids for c in alone] == [c.token_ids for c in completions]
        for ours, theirs in zip(alone, completions, strict=True):
            assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_log_probs_are_the_models_own(engine: Engine, temperature: float) -> None:
    request = Request([user("What colour?", 1)], [picture(1)], max_tokens=8, temperature=temperature, top_k=5, n=2)
    prompt = engine.processor.encode(request.messages, request.images, generate=True)
    for completion in engine.generate([request])[0]:
        ids = torch.tensor(completion.token_ids)
        later = torch.arange(len(ids)) + prompt.next_position
        prompt_length = len(prompt)
        document = pack([prompt])
        document.input_ids = torch.cat([prompt.input_ids, ids])
        document.positions = torch.cat([prompt.positions, later.expand(3, -1)], dim=1)
        document.cu_seqlens = torch.tensor([0, prompt_length + len(ids)])
        document.targets = torch.arange(prompt_length + len(ids)) >= prompt_length
        with torch.no_grad():
            wanted, _ = engine.model.log_probs(document, temperature=temperature or 1.0)
        assert completion.log_probs == pytest.approx(wanted[prompt_length:].tolist(), abs=1e-4)


def test_completions_of_a_request_differ_and_are_reproducible(engine: Engine) -> None:
    request = Request([user("red green")], max_tokens=8, temperature=1.0, n=4, seed=5)
    first, again = engine.generate([request]), engine.generate([request])
    for one, other in zip(first[0], again[0], strict=True):  # the second time the prompt is found, not computed
        assert one.token_ids == other.token_ids
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    assert len({tuple(c.token_ids) for c in first[0]}) > 1
    other = engine.generate([Request([user("red green")], max_tokens=8, temperature=1.0, n=4, seed=6)])
    assert [c.token_ids for c in other[0]] != [c.token_ids for c in first[0]]


def test_pictures_and_prompts_are_computed_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    encode = engine.model.encode_images
    monkeypatch.setattr(engine.model, "encode_images", lambda p, g: (shown.append(len(g)), encode(p, g))[1])
    prefilled: list[int] = []
    forward = engine.model.hidden_states

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        hidden = forward(*args, **kwargs)  # type: ignore[arg-type]
        prefilled.append(len(hidden))
        return hidden

    monkeypatch.setattr(engine.model, "hidden_states", counted)
    same = [Request([user(text, 1)], [picture(7)], n=2, max_tokens=1) for text in ("How many?", "How many?", "left?")]
    results = engine.generate(same)
    assert [len(result) for result in results] == [2, 2, 2]
    assert sum(shown) == 1
    prompts = [engine.processor.encode(request.messages, request.images, generate=True) for request in same]
    assert sum(prefilled) < len(prompts[0]) + len(prompts[2]) + 2 * len(same)  # the rest sample from a token each


def test_another_picture_changes_the_log_probs(engine: Engine) -> None:
    one, two = (Request([user("What colour?", 1)], [picture(seed)], max_tokens=1) for seed in (1, 2))
    (first,), (second,) = engine.generate([one, two])
    assert first.log_probs != second.log_probs


def test_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    request = Request([user("one two")], max_tokens=20)
    whole = engine.generate([request])[0][0]
    stop = whole.text[3:5]
    ended = engine.generate([Request([user("one two")], max_tokens=20, stop=(stop,))])[0][0]
    assert ended.text == whole.text[: whole.text.index(stop)]
    assert ended.finish_reason == "stop"
    assert len(ended.token_ids) == len(ended.log_probs) < len(whole.token_ids)


def test_closing_token_finishes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request([user("one two")], max_tokens=20)
    whole = engine.generate([request])[0][0]
    assert whole.finish_reason == "length"
    monkeypatch.setattr(engine.processor, "eos_id", whole.token_ids[4])
    ended = engine.generate([request])[0][0]
    assert ended.finish_reason == "stop"
    assert ended.token_ids == whole.token_ids[: whole.token_ids.index(whole.token_ids[4]) + 1]


def test_with_ignore_eos_the_closing_token_does_not_finish(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request([user("one two")], max_tokens=12, ignore_eos=True)
    ((whole,),) = engine.generate([request])
    monkeypatch.setattr(engine.processor, "eos_id", whole.token_ids[4])
    ((again,),) = engine.generate([request])
    assert (again.token_ids, again.finish_reason) == (whole.token_ids, "length")


@pytest.mark.parametrize("stop", [(), ("e",), ("ue", "on")])
def test_stream_equals_generate(engine: Engine, stop: tuple[str, ...]) -> None:
    request = Request([user("图中有几个方块？")], max_tokens=24, temperature=1.0, stop=stop)
    assert "".join(engine.stream(request)) == engine.generate([request])[0][0].text


def test_weight_version_counts_updates(engine: Engine) -> None:
    request = Request([user("one")], max_tokens=1)
    assert engine.generate([request])[0][0].weight_version == 0
    assert engine.update_weights() == 1
    assert engine.generate([request])[0][0].weight_version == 1


def test_new_weights_change_the_answer(parts: tuple[Qwen3VL, Processor]) -> None:
    fresh = Engine(Qwen3VL(parts[0].config, seed=9), parts[1])
    request = Request([user("one two three")], max_tokens=12)
    before = fresh.generate([request])[0][0]
    fresh.update_weights(parts[0].state_dict())
    after = fresh.generate([request])[0][0]
    assert before.token_ids != after.token_ids
    assert after.token_ids == Engine(*parts).generate([request])[0][0].token_ids


@pytest.mark.parametrize("told", [True, False])
def test_new_weights_are_computed_with_inside_one_context_too(parts: tuple[Qwen3VL, Processor], told: bool) -> None:
    """Autocast holds what it has cast of the old ones."""
    model, processor = Qwen3VL(parts[0].config, seed=9), parts[1]
    engine = Engine(model, processor, autocast=torch.bfloat16)
    request = Request([user("red")], max_tokens=4)
    with engine.precision():
        before = engine.generate([request])
        with torch.no_grad():
            for parameter in model.text.parameters():
                parameter.mul_(1.5)
        if told:
            engine.update_weights()
        after = engine.generate([request])
    fresh = Engine(model, processor, autocast=torch.bfloat16).generate([request])
    assert after[0][0].log_probs == fresh[0][0].log_probs
    assert after[0][0].log_probs != before[0][0].log_probs


def test_small_token_limit_still_answers_everything(parts: tuple[Qwen3VL, Processor], engine: Engine) -> None:
    requests = mixed_requests(n=2)
    narrow = Engine(*parts, max_batch=3, kv_tokens=96, block_size=4)
    found = narrow.generate(requests)
    assert [[c.token_ids for c in r] for r in found] == [[c.token_ids for c in r] for r in engine.generate(requests)]
    with pytest.raises(UserError, match="beyond the 96 that the engine can hold: raise kv_tokens"):
        narrow.generate([Request([user("one")], max_tokens=95)])


@pytest.mark.parametrize(
    "options", [{"max_tokens": 0}, {"n": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"stop": ("",)}]
)
def test_senseless_requests_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|empty"):
        Request([user("x")], **options)  # type: ignore[arg-type]


def test_progress_counts_completions(engine: Engine) -> None:
    seen: list[tuple[int, int]] = []
    engine.generate([Request([user("x")], max_tokens=2, n=3)], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_more_than_the_model_can_place_is_refused(parts: tuple[Qwen3VL, Processor]) -> None:
    model, processor = parts
    config = replace(model.config, text=replace(model.config.text, max_position_embeddings=40))
    engine = Engine(Qwen3VL(config), processor)
    engine.generate([Request([user("one")], max_tokens=5)])
    with pytest.raises(UserError, match=r"request 1: .* \d+ tokens and up to 39 of .* beyond the model's 40"):
        engine.generate([Request([user("one")], max_tokens=5), Request([user("two")], max_tokens=39)])


@pytest.mark.parametrize("steps", [{}, {"step_tokens": 5, "max_batch": 2}, {"kv_tokens": 64, "block_size": 4}])
def test_log_probs_of_the_prompt_and_of_the_likeliest(parts: tuple[Qwen3VL, Processor], steps: dict[str, int]) -> None:
    model, processor = parts
    requests = [
        Request([user(text, 1)], [picture(1)], 4, prompt_log_probs=True, top_log_probs=3) for text in ("one", "two")
    ]
    for request, (found,) in zip(requests, Engine(*parts, **steps).generate(requests), strict=True):
        document = processor.encode(request.messages, request.images, generate=True)
        with torch.no_grad():
            hidden = model.hidden_states(pack([extended(document, found.token_ids)]))
            ids = torch.cat([document.input_ids, torch.tensor(found.token_ids)])
            log_p = model.logits(hidden).log_softmax(-1)
        prompt = len(document)
        expected = log_p[: prompt - 1].gather(-1, ids[1:prompt, None])[:, 0]
        assert found.prompt_log_probs == pytest.approx(expected.tolist(), abs=1e-4)
        assert len(found.top_log_probs) == len(found.token_ids)
        for place, top in enumerate(found.top_log_probs):
            values, tokens = log_p[prompt - 1 + place].topk(3)
            assert [token for token, _ in top] == tokens.tolist()
            assert [value for _, value in top] == pytest.approx(values.tolist(), abs=1e-4)


def test_penalties_reach_the_sampler(engine: Engine) -> None:
    plain = Request([user("one two three")], max_tokens=24)
    penalised = replace(plain, presence_penalty=50.0)
    assert len(set(engine.generate([plain])[0][0].token_ids)) < 24
    assert len(set(engine.generate([penalised])[0][0].token_ids)) == 24


def test_a_processor_of_another_model_is_refused(parts: tuple[Qwen3VL, Processor]) -> None:
    model, processor = parts
    coarse = Processor(processor.tokenizer, replace(processor.images, patch_size=8), processor.files)
    with pytest.raises(UserError, match="patch_size"):
        Engine(model, coarse)


def test_a_model_is_gone_with_its_engine(tiny_dir: Path) -> None:
    """At once, and not when the collector comes by: the next one needs the memory."""
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    engine, there = Engine(model, processor), weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        engine.generate(mixed_requests())
        del model, engine
        assert there() is None
    finally:
        gc.enable()
