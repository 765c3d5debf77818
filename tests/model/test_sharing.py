"""Packs in which documents share their beginning: loss, gradients and log-probs of whole documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import noise
from PIL import Image
from tiny import moe_config

from open4ov.model import Encoded, Pack, Processor, Qwen3VL, lora, pack
from open4ov.model.attention import KERNELS, Documents
from open4ov.model.attention import attend as plain
from open4ov.model.prefix import Prefix, Shared, attend
from open4ov.model.sharing import beginning, lay
from open4ov.parallel import recompute
from open4ov.sample import Message, assistant, user, video

A, B, C = noise(96, 96, 1), noise(96, 96, 2), noise(64, 32, 3)


@pytest.fixture
def processor(tiny_dir: Path) -> Processor:
    return Processor.from_pretrained(tiny_dir)


def dense(directory: Path, processor: Processor) -> Qwen3VL:
    return Qwen3VL.from_pretrained(directory)


def experts(directory: Path, processor: Processor) -> Qwen3VL:
    return Qwen3VL(moe_config(processor, router_aux_loss_coef=0.05), seed=5)


def adapted(directory: Path, processor: Processor) -> Qwen3VL:
    model = Qwen3VL.from_pretrained(directory)
    lora.add(model, 3, seed=1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if lora.is_adapter(name):
                p.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    return model


def recomputing(directory: Path, processor: Processor) -> Qwen3VL:
    model = Qwen3VL.from_pretrained(directory)
    recompute.apply(model, "op", "full")
    return model


Told = tuple[list[Message], list[Image.Image]]


def told() -> list[Told]:
    """Four about A, in one word alike beyond it; two that go on about C later; two about B and C; one about B alone,
    one that shows its picture after the question, two without one."""
    later = [user("What colour is the circle?", 1), assistant("blue"), user("and this", 1, first_image=1)]
    after = Message.model_validate(
        {"role": "user", "content": [{"type": "text", "text": "left or right"}, {"type": "image", "index": 0}]}
    )
    return [
        ([user("What colour is the circle?", 1), assistant("red")], [A]),
        ([user("How many squares are there?", 2), assistant("three")], [B, C]),
        ([user("1 + 1 ="), assistant("2")], []),
        ([*later, assistant("green yellow")], [A, C]),
        ([user("What squares are there?", 1), assistant("one two three left right above below")], [A]),
        ([user("left", 1), assistant("right")], [B]),
        ([after, assistant("above")], [A]),
        ([user("How many circles?", 2), assistant("one")], [B, C]),
        ([*later, assistant("red"), user("left"), assistant("below")], [A, C]),
        ([user("1 + 1 ="), assistant("3")], []),
    ]


def both(processor: Processor, conversations: list[Told]) -> tuple[Pack, Pack, list[int]]:
    """Whole documents, and the same sharing what they can; the order in which the second has them."""
    documents = [processor.encode(*one) for one in conversations]
    begun = [
        beginning(d, visual(d, processor), names(*one), processor.images.merge_size)
        for d, one in zip(documents, conversations, strict=True)
    ]
    shared, order = lay(documents, begun)
    return pack([documents[i] for i in order]), shared, order


def names(messages: list[Message], images: list[Image.Image]) -> list[str]:
    shown = [part.shows for message in messages for part in message.content if part.type != "text"]
    return ["+".join(str(hash(images[index].tobytes())) for index in indices) for indices in shown]


def visual(document: Encoded, processor: Processor) -> torch.Tensor:
    return (document.input_ids == processor.image_id) | (document.input_ids == processor.video_id)


def gradients(model: Qwen3VL, batch: Pack) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = model.loss(batch)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", [dense, experts, adapted, recomputing])
def test_loss_and_gradients_are_those_of_whole_documents(
    make: Callable[[Path, Processor], Qwen3VL], tiny_dir: Path, processor: Processor
) -> None:
    model = make(tiny_dir, processor)
    whole, shared, _ = both(processor, told())
    assert len(shared.predicted) == len(whole.predicted)
    expected, of_whole = gradients(model, whole)
    figures = model.figures()
    found, of_shared = gradients(model, shared)
    assert found == pytest.approx(expected, abs=1e-5)
    assert model.figures() == pytest.approx(figures, abs=2e-4)
    assert of_shared.keys() == of_whole.keys()
    for name, gradient in of_whole.items():
        torch.testing.assert_close(of_shared[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_log_probs_of_what_is_predicted_are_those_of_whole_documents(tiny_dir: Path, processor: Processor) -> None:
    model = dense(tiny_dir, processor)
    whole, shared, _ = both(processor, told())
    with torch.no_grad():
        expected, found = model.log_probs(whole)[0], model.log_probs(shared)[0]
    torch.testing.assert_close(found[shared.predicted], expected[whole.predicted], atol=1e-5, rtol=0)
    assert torch.equal(shared.input_ids[shared.predicted], whole.input_ids[whole.predicted])


def test_what_is_alike_is_there_once(processor: Processor) -> None:
    conversations = told()
    whole, shared, order = both(processor, conversations)
    assert order == [0, 1, 2, 5, 6, 9, 3, 4, 8, 7]
    first, second = shared.prefixes
    about_a = [processor.encode(*conversations[i]).input_ids.tolist() for i in (0, 3, 4, 8)]
    assert (first.start, len(first.own)) == (0, 3)
    alike = list(takewhile(lambda column: len(set(column)) == 1, zip(*about_a, strict=False)))
    assert first.tokens == len(alike), "the word that all four questions begin with is shared too"
    lengths = [len(processor.encode(*conversations[i])) for i in order]
    assert first.own == tuple(length - first.tokens for length in lengths[6:9])
    assert (second.start, len(second.own)) == (lengths[0], 1)
    assert len(shared.input_ids) == len(whole.input_ids) - 3 * first.tokens - second.tokens
    assert shared.images == (1, 2, 0, 1, 1, 0, 1, 0, 1, 0)


def test_different_pictures_of_one_size_are_not_shared(processor: Processor) -> None:
    question = [user("What colour is the circle?", 1), assistant("red")]
    _, shared, order = both(processor, [(question, [A]), (question, [B])])
    assert shared.prefixes == ()
    assert order == [0, 1]


def test_the_same_document_twice_shares_all_but_what_predicts(tiny_dir: Path, processor: Processor) -> None:
    model = dense(tiny_dir, processor)
    question = [user("What colour is the circle?", 1), assistant("red")]
    whole, shared, _ = both(processor, [(question, [A])] * 3)
    (prefix,) = shared.prefixes
    assert int(shared.targets[: prefix.tokens + 1].sum()) == 0
    assert prefix.tokens + 1 == int(shared.targets.nonzero()[0, 0]), "one token more would predict for all three"
    expected, of_whole = gradients(model, whole)
    found, of_shared = gradients(model, shared)
    assert found == pytest.approx(expected, abs=1e-5)
    for name, gradient in of_whole.items():
        torch.testing.assert_close(of_shared[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_videos_are_shared(tiny_dir: Path, processor: Processor) -> None:
    model, frames = dense(tiny_dir, processor), [noise(64, 64, seed) for seed in range(4)]
    conversations: list[Told] = [
        ([video(question, [0.0, 0.5, 1.0, 1.5]), assistant("two")], frames) for question in ("left", "right above")
    ]
    whole, shared, _ = both(processor, conversations)
    assert len(shared.prefixes) == 1
    assert gradients(model, shared)[0] == pytest.approx(gradients(model, whole)[0], abs=1e-5)


def test_half_precision_is_as_near_as_it_is_to_itself(tiny_dir: Path, processor: Processor) -> None:
    model = dense(tiny_dir, processor)
    whole, shared, _ = both(processor, told())
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = gradients(model, whole)[0], gradients(model, shared)[0]
    assert found == pytest.approx(expected, abs=0.02)


def test_a_pack_goes_to_a_device_with_its_prefixes(processor: Processor) -> None:
    _, shared, _ = both(processor, told())
    meta = shared.to("meta")
    assert meta.prefixes == shared.prefixes


@pytest.mark.slow
def test_compiled_layers_compute_the_same(tiny_dir: Path, processor: Processor) -> None:
    model, compiled = dense(tiny_dir, processor), dense(tiny_dir, processor)
    for block in compiled.blocks():
        block.compile(dynamic=True)
    for conversations in (told(), told()[:5], told()[1:3], told()[:2] * 2):
        _, shared, _ = both(processor, conversations)
        expected, of_eager = gradients(model, shared)
        found, of_compiled = gradients(compiled, shared)
        assert found == pytest.approx(expected, abs=1e-4)
        for name, gradient in of_eager.items():
            torch.testing.assert_close(of_compiled[name], gradient, atol=1e-4, rtol=1e-2, msg=name)


# ------------------------------------------------------------------------------------------------ attention alone


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[int], list[Prefix]]:
    """Lengths of whole documents, and prefixes in some of them."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    owners = sorted(draw(st.sets(st.integers(0, len(lengths) - 1), min_size=1, max_size=3)))
    prefixes = [
        Prefix(
            sum(lengths[:owner]),
            draw(st.integers(1, lengths[owner])),
            tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))),
        )
        for owner in owners
    ]
    return lengths, prefixes


@pytest.mark.parametrize("kernel", ["auto", "padded", "grouped", "sdpa"])
@given(layout=layouts(), seed=st.integers(0, 99))
def test_attention_equals_the_definition(kernel: str, layout: tuple[list[int], list[Prefix]], seed: int) -> None:
    """Against every document laid out whole, with values and gradients."""
    assert kernel == "auto" or kernel in KERNELS
    lengths, prefixes = layout
    own = [length for prefix in prefixes for length in prefix.own]
    cu = torch.tensor([0, *lengths, *own]).cumsum(0)
    total = int(cu[-1])
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(total, heads, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    pieces, at = [torch.arange(a, b) for a, b in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True)], len(lengths)
    whole, real = pieces[:at], [torch.ones(len(piece), dtype=torch.bool) for piece in pieces[:at]]
    times = torch.ones(total)
    for prefix in prefixes:
        shared = torch.arange(prefix.start, prefix.start + prefix.tokens)
        times[shared] += len(prefix.own)
        for _ in prefix.own:
            whole.append(torch.cat([shared, pieces[at]]))
            real.append(torch.arange(len(whole[-1])) >= prefix.tokens)
            at += 1
    index, kept = torch.cat(whole), torch.cat(real)
    documents = Documents.of(torch.tensor([0, *map(len, whole)]).cumsum(0))
    expected = plain(q[index], k[index], v[index], documents, True, "sdpa")[kept]
    layout_of = Shared.of(cu, tuple(prefixes))
    found: torch.Tensor = attend(q, k, v, layout_of, kernel)  # pyright: ignore[reportCallIssue, reportAssignmentType]
    assert torch.equal(layout_of.times, times)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    up = torch.randn(found.shape, generator=generator)
    for one, other in zip(
        torch.autograd.grad(found, (q, k, v), up), torch.autograd.grad(expected, (q, k, v), up), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_nothing_is_shared_where_no_picture_comes_before_the_answer(processor: Processor) -> None:
    text = processor.encode([user("1 + 1 ="), assistant("2")], [])
    assert beginning(text, visual(text, processor), [], 2) is None
    late = processor.encode([user("left"), assistant("right"), user("this", 1), assistant("red")], [A])
    assert beginning(late, visual(late, processor), ["a"], 2) is None
    cut = replace(late, targets=torch.zeros_like(late.targets))
    found = beginning(cut, visual(cut, processor), ["a"], 2)
    assert found is not None
    assert found.images == 1
