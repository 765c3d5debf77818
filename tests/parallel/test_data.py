"""Packs shared out to dp ranks: each once, as many on each, and within the bound that the docstring states."""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import conversations

from open4ov.model import Processor, Qwen3VL, pack
from open4ov.model.flops import count
from open4ov.parallel import data

COSTS = st.lists(st.floats(min_value=0, max_value=1e15), max_size=40)
RANKS = st.integers(min_value=1, max_value=9)


@given(COSTS, RANKS)
def test_each_pack_once_and_as_many_passes_on_each_rank(costs: list[float], ranks: int) -> None:
    shares = data.share(costs, ranks)
    assert sorted(number for own in shares for number in own if number is not None) == list(range(len(costs)))
    assert {len(own) for own in shares} == {-(-len(costs) // ranks)}
    assert sum(number is None for own in shares for number in own) < ranks


@given(COSTS, RANKS)
def test_no_worse_than_one_pack(costs: list[float], ranks: int) -> None:
    shares = data.share(costs, ranks)
    largest, slack = max(costs, default=0), 1e-9 * sum(costs)
    passes = zip(*shares, strict=True)
    together = sum(max(costs[number] for number in numbers if number is not None) for numbers in passes)
    assert together <= sum(costs) / ranks + largest + slack
    sums = [sum(costs[number] for number in own if number is not None) for own in shares]
    assert max(sums) - min(sums) <= largest + slack


def least(costs: list[float], ranks: int) -> float:
    """By enumeration: the least that the ranks take together, each pass as long as its costliest pack."""
    if not costs:
        return 0.0
    size = min(ranks, len(costs))
    passes = -(-len(costs) // ranks)
    found = float("inf")
    for count_ in range(1, size + 1):
        for chosen in itertools.combinations(range(1, len(costs)), count_ - 1):
            rest = [cost for number, cost in enumerate(costs) if number and number not in chosen]
            if len(rest) <= (passes - 1) * ranks:
                together = max(costs[number] for number in (0, *chosen))
                found = min(found, together + least(rest, ranks))
    return found


@given(st.lists(st.integers(min_value=1, max_value=50).map(float), min_size=1, max_size=6), st.integers(2, 3))
@settings(max_examples=40)
def test_the_least_that_is_possible(costs: list[float], ranks: int) -> None:
    shares = data.share(costs, ranks)
    passes = zip(*shares, strict=True)
    together = sum(max(costs[number] for number in numbers if number is not None) for numbers in passes)
    assert together == least(costs, ranks)


def test_a_pack_costs_what_its_products_do(tiny_dir: Path) -> None:
    batch = pack(conversations(Processor.from_pretrained(tiny_dir))["batch"])
    config = Qwen3VL.from_pretrained(tiny_dir).config
    lengths = [batch.cu_seqlens[i + 1].item() - batch.cu_seqlens[i].item() for i in range(len(batch.names))]
    grids = [tuple(grid) for grid in batch.grids.tolist()]
    flops = count(config, lengths, grids, len(batch.predicted))  # pyright: ignore[reportArgumentType]
    assert flops.vision > 0
    assert data.cost(config, batch) == 3 * flops.forward
    assert data.cost(config, batch, frozen_vision=True) == 3 * flops.forward - 2 * flops.vision
    assert data.cost(config, batch, cached_vision=True) == 3 * (flops.forward - flops.vision)


def test_pictures_count() -> None:
    """Four packs of text and four with a picture: no rank gets two of the latter."""
    shares = data.share([1, 5, 1, 5, 1, 5, 1, 5], 4)
    assert all(sum(number in (1, 3, 5, 7) for number in own) == 1 for own in shares)


def test_the_filler_is_a_pack_without_targets(tiny_dir: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    filler = data.filler(model.config)
    assert model.hidden_states(filler).shape == (2, 48)
    assert len(filler.predicted) == 0
    assert model.loss(filler).item() == 0
