"""Cutting a model into stages: the best cut against all cuts, and what is counted."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.errors import UserError
from open4ov.model.flops import count
from open4ov.model.sizes import SIZES
from open4ov.parallel import orders
from open4ov.parallel.cuts import SLACK, Costs, Cut, costs, cut, typical

whole = st.integers(0, 40).map(float)
many = st.lists(st.integers(1, 9).map(float), min_size=1, max_size=9)


def every(found: Costs, schedule: str, ranks: int, chunks: int, least: int = 1) -> list[tuple[float, float]]:
    """What the slowest rank and the slowest stage cost, of all cuts without an empty stage, by trying each."""
    out: list[tuple[float, float]] = []
    layers = len(found.layers)
    for borders in combinations(range(1, layers), ranks * chunks - 1):
        if layers and (borders or (layers,))[0] < least:
            continue
        loads = [0.0] * ranks
        stages: list[float] = []
        for stage, (a, b) in enumerate(pairwise([0, *borders, layers])):
            cost = sum(found.layers[a:b])
            cost += found.first if stage == 0 else 0
            cost += found.last if stage == ranks * chunks - 1 else 0
            loads[orders.rank_of(schedule, stage, ranks)] += cost
            stages.append(cost)
        out.append((max(loads), max(stages)))
    return out


def sound(found: Cut, given: Costs, stages: int) -> None:
    edges = [0, *found.borders, len(given.layers)]
    assert len(found.borders) == stages - 1
    assert all(a < b for a, b in pairwise(edges)), "a stage without a layer"
    assert sum(found.ranks) == pytest.approx(sum(given.layers) + given.first + given.last)
    assert sum(found.stages) == pytest.approx(sum(found.ranks))


@settings(max_examples=300, deadline=None)
@given(many, whole, whole, st.integers(1, 5))
def test_one_stage_a_rank_is_cut_best(layers: list[float], first: float, last: float, ranks: int) -> None:
    ranks = min(ranks, len(layers))
    given = Costs(tuple(layers), first, last)
    found = cut(given, ranks)
    sound(found, given, ranks)
    assert max(found.ranks) == min(load for load, _ in every(given, "1f1b", ranks, 1))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_equal_layers_are_cut_best_for_several_stages_a_rank(data: st.DataObject) -> None:
    schedule = data.draw(st.sampled_from(["interleaved", "zbv"]))
    ranks = data.draw(st.integers(1, 3))
    chunks = 2 if schedule == "zbv" else data.draw(st.integers(2, 3))
    layers = data.draw(st.integers(ranks * chunks, ranks * chunks + 5))
    given = Costs((4.0,) * layers, data.draw(whole), data.draw(whole))
    found = cut(given, ranks, chunks, schedule)
    sound(found, given, ranks * chunks)
    assert (max(found.ranks), max(found.stages)) == min(every(given, schedule, ranks, chunks))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_unequal_layers_are_cut_well_for_several_stages_a_rank(data: st.DataObject) -> None:
    schedule = data.draw(st.sampled_from(["interleaved", "zbv"]))
    layers = data.draw(st.lists(st.integers(1, 9).map(float), min_size=4, max_size=9))
    given = Costs(tuple(layers), data.draw(whole), data.draw(whole))
    found = cut(given, 2, 2, schedule)
    sound(found, given, 4)
    assert max(found.ranks) <= 1.25 * min(load for load, _ in every(given, schedule, 2, 2))


@settings(max_examples=200, deadline=None)
@given(many, whole, whole, st.integers(2, 4), st.integers(2, 4))
def test_taps_stay_with_the_tower_when_that_costs_little(
    layers: list[float], first: float, last: float, ranks: int, taps: int
) -> None:
    if ranks > len(layers):
        return
    given = Costs(tuple(layers), first, last)
    found, best = cut(given, ranks, taps=taps), cut(given, ranks)
    sound(found, given, ranks)
    together = [load for load, _ in every(given, "1f1b", ranks, 1, taps)]
    if together and min(together) <= (1 + SLACK) * max(best.ranks):
        assert found.borders[0] >= taps
        assert max(found.ranks) <= (1 + SLACK) * max(best.ranks)
    else:
        assert max(found.ranks) == max(best.ranks)


def test_the_tower_of_30b_moves_layers_away_from_it() -> None:
    """At 70 % visual tokens and two stages the first one has about 15 of the 48 layers (reference/parallel.md 3)."""
    config = SIZES["30B-A3B"]
    found = cut(typical(config, 4096, visual=0.7), 2, taps=3)
    assert 13 <= found.borders[0] <= 17
    assert found.imbalance < 1.05
    half = typical(config, 4096, visual=0.7).loads([24])
    assert 1.4 < half[0] / half[1] < 2.0
    frozen = cut(typical(config, 4096, visual=0.7, tower=1), 2, taps=3)
    assert found.borders[0] < frozen.borders[0] < cut(typical(config, 4096, tower=0), 2).borders[0]


def test_the_head_moves_layers_away_from_the_last_stage() -> None:
    config = SIZES["2B"]
    found = cut(typical(config, 4096, visual=0.0, targets=1.0), 4)
    edges = [0, *found.borders, config.text.num_hidden_layers]
    sizes = [b - a for a, b in pairwise(edges)]
    assert sizes[-1] < min(sizes[:-1])


@pytest.mark.parametrize("name", ["8B", "30B-A3B"])
def test_costs_are_those_counted_for_the_whole_model(name: str) -> None:
    config = SIZES[name]
    lengths, grids = [700, 1300], [(1, 32, 24)]
    found = costs(config, lengths, grids, predicted=300)
    whole_model = count(config, lengths, grids, predicted=300)
    assert sum(found.layers) + found.first + found.last == pytest.approx(whole_model.training())
    frozen = costs(config, lengths, grids, predicted=300, tower=1)
    assert sum(frozen.layers) + frozen.first + frozen.last == pytest.approx(whole_model.training(frozen_vision=True))


def test_layers_of_two_kinds() -> None:
    config = SIZES["30B-A3B"]
    mixed = replace(config, text=replace(config.text, mlp_only_layers=(0, 5)))
    found = costs(mixed, [512], [])
    assert found.layers[0] == found.layers[5] != found.layers[1]
    whole_model = count(mixed, [512])
    assert sum(found.layers) + found.last == pytest.approx(whole_model.training())


def test_more_stages_than_layers() -> None:
    with pytest.raises(UserError, match=r"parallel\.pp: 4 ranks of 2 stages each need 8 layers, but the model has 6"):
        cut(Costs((1.0,) * 6), 4, 2, "interleaved")
