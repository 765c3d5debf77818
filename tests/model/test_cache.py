"""Decoding with a cache gives the hidden states of one full pass, whatever the order in which rows are filled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import conversations
from torch import Tensor

from open4ov.model import Encoded, Pack, Processor, Qwen3VL, pack


def cut(document: Encoded, start: int, end: int) -> Encoded:
    """Tokens start..end of a document; images travel with the piece that holds them (all before `end` and after)."""
    return Encoded(
        document.input_ids[start:end],
        document.positions[:, start:end],
        document.targets[start:end],
        document.pixels if start == 0 else document.pixels[:0],
        document.grids if start == 0 else document.grids[:0],
        document.next_position,
    )


@pytest.fixture(scope="module")
def loaded(tiny_dir: Path) -> tuple[Qwen3VL, list[Encoded]]:
    processor, model = Processor.from_pretrained(tiny_dir), Qwen3VL.from_pretrained(tiny_dir)
    one, text, _ = conversations(processor)["batch"]
    return model, [one, text]


def full(model: Qwen3VL, documents: list[Encoded]) -> list[Tensor]:
    return [model.hidden_states(pack([d])) for d in documents]


@torch.inference_mode()
def test_one_token_at_a_time(loaded: tuple[Qwen3VL, list[Encoded]]) -> None:
    model, documents = loaded
    steps = 5
    cache = model.new_cache(2, 80)
    starts = [len(d) - steps for d in documents]
    first = model.hidden_states(pack([cut(d, 0, s) for d, s in zip(documents, starts, strict=True)]), cache=cache)
    pieces = [[x] for x in first.split(starts)]
    for i in range(steps):
        ids = torch.stack([d.input_ids[s + i] for d, s in zip(documents, starts, strict=True)])
        positions = torch.stack([d.positions[0, s + i] for d, s in zip(documents, starts, strict=True)])
        for row, x in enumerate(model.hidden_states(Pack.step(ids, positions), cache=cache)):
            pieces[row].append(x[None])
    for got, expected in zip(pieces, full(model, documents), strict=True):
        torch.testing.assert_close(torch.cat(got), expected, atol=1e-5, rtol=1e-4)
    assert cache.lengths.tolist() == [len(d) for d in documents]


@torch.inference_mode()
def test_unequal_chunks_into_chosen_rows(loaded: tuple[Qwen3VL, list[Encoded]]) -> None:
    """A late document joins a running cache, in a row of its own."""
    model, (one, text) = loaded
    cache = model.new_cache(4, 80)
    half = len(one) - 6
    model.hidden_states(pack([cut(one, 0, half)]), cache=cache, rows=torch.tensor([3]))
    mixed = pack([text, cut(one, half, len(one))])
    got = model.hidden_states(mixed, cache=cache, rows=torch.tensor([1, 3]))
    whole_one, whole_text = full(model, [one, text])
    torch.testing.assert_close(got, torch.cat([whole_text, whole_one[half:]]), atol=1e-5, rtol=1e-4)
    assert cache.lengths.tolist() == [0, len(text), 0, len(one)]


@torch.inference_mode()
def test_repeat_shares_the_prompt_and_select_drops_rows(loaded: tuple[Qwen3VL, list[Encoded]]) -> None:
    model, (one, text) = loaded
    cache = model.new_cache(1, len(one) - 1)
    model.hidden_states(pack([cut(one, 0, len(one) - 1)]), cache=cache)
    wider = cache.repeat(3, max_len=len(one) + 4)
    last, other = one.input_ids[-1], text.input_ids[1]
    position = one.positions[0, -1].expand(3)
    hidden = model.hidden_states(Pack.step(torch.stack([last, other, last]), position), cache=wider)
    torch.testing.assert_close(hidden[0], full(model, [one])[0][-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hidden[0], hidden[2])
    assert (hidden[0] - hidden[1]).abs().max() > 1e-2
    kept = wider.select(torch.tensor([2]))
    step = Pack.step(text.input_ids[:1], one.positions[0, -1:] + 1)
    torch.testing.assert_close(
        model.hidden_states(step, cache=kept)[0],
        model.hidden_states(
            Pack.step(text.input_ids[:1].expand(3), (one.positions[0, -1:] + 1).expand(3)), cache=wider
        )[0],
        atol=1e-5,
        rtol=1e-4,
    )
    assert cache.lengths.tolist() == [len(one) - 1]


def test_overflow_is_an_error(loaded: tuple[Qwen3VL, list[Encoded]]) -> None:
    model, (one, _) = loaded
    with pytest.raises(ValueError, match="max_len 10 cannot hold"):
        model.hidden_states(pack([one]), cache=model.new_cache(1, 10))
