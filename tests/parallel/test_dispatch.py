"""Tokens that travel to experts on other ranks: what comes back, and every gradient, is what one rank computes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import world
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from moe_layers import HIDDEN, layer, local, mesh_of, on_mesh, outcome, own, worst

from open4ov.parallel import expert
from open4ov.parallel.dispatch import by_expert, inverse

pytestmark = pytest.mark.distributed


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_rows_are_laid_expert_after_expert(ranks: int, experts: int, data: st.DataObject) -> None:
    counts = data.draw(
        st.lists(st.lists(st.integers(0, 3), min_size=experts, max_size=experts), min_size=ranks, max_size=ranks)
    )
    rows = [(e, r, n) for r in range(ranks) for e in range(experts) for n in range(counts[r][e])]
    order = by_expert(torch.tensor(counts), len(rows))
    assert [rows[i] for i in order.tolist()] == sorted(rows)
    assert inverse(order)[order].tolist() == list(range(len(rows)))


Case = tuple[list[list[int]], str, int]
"""Rows that each rank [G] has for each expert [E], kernel, seed"""


def any_counts(ranks: int, cases: list[Case]) -> list[float]:
    """The worst difference of each case."""
    mesh, worsts = mesh_of(ranks), []
    for counts, kernel, seed in cases:
        mine = torch.tensor(counts[mesh.rank("ep")])
        generator = torch.Generator().manual_seed(seed + mesh.rank("ep"))
        x = torch.randn(int(mine.sum()), HIDDEN, generator=generator)
        up = torch.randn(x.shape, generator=generator)
        whole = layer(len(mine), 1, seed)
        whole.kernel = kernel
        found, expected = [], []
        for moe, kept in ((on_mesh(whole, mesh, "all_to_all"), found), (whole, expected)):
            inputs = x.clone().requires_grad_()
            out = moe.products(inputs, mine)
            (out * up).sum().backward()
            kept += [out, inputs.grad, local(moe.gate_up.grad), local(moe.down.grad)]
        for i in (2, 3):
            dist.all_reduce(expected[i])
            expected[i] = own(expected[i], mesh)
        worsts.append(worst(found, expected))
    return worsts


@st.composite
def cases(draw: st.DrawFn, ranks: int) -> Case:
    experts = ranks * draw(st.integers(1, 3))
    row = st.lists(st.one_of(st.just(0), st.integers(0, 6)), min_size=experts, max_size=experts)
    counts = draw(st.lists(row, min_size=ranks, max_size=ranks))
    return counts, draw(st.sampled_from(["grouped", "loop"])), draw(st.integers(0, 1000))


@pytest.mark.slow
@settings(max_examples=3, phases=[Phase.generate])
@given(st.data(), st.sampled_from([2, 3]))
def test_any_number_of_rows_may_go_anywhere(data: st.DataObject, ranks: int) -> None:
    drawn = [([[0] * 2 * ranks] * ranks, "grouped", 0), ([[0] * 2 * ranks] * ranks, "loop", 0)]
    drawn += data.draw(st.lists(cases(ranks), min_size=12, max_size=12))
    for case, worst_of in zip(drawn, world.run(any_counts, ranks, ranks, drawn)[0], strict=True):
        assert worst_of <= 1e-5, case


def whole_layer(dispatch: str, shared: bool, weighed: bool) -> dict[str, float]:
    """The tokens of one pack on two ranks, the second filled up with tokens that do not count; or a pack each."""
    mesh, rank = mesh_of(2, shared), dist.get_rank()
    whole = layer(4)
    generator = torch.Generator().manual_seed(1)
    x, up = (torch.randn(14, HIDDEN, generator=generator) for _ in range(2))
    times = torch.ones(14)
    if weighed:
        times[3:6] = 3.0
    if shared:
        times[11:] = 0.0  # these fill up
        up[11:] = 0.0
    here = slice(7 * rank, 7 * rank + 7)
    moe = on_mesh(whole, mesh, dispatch)
    given = times[here] if shared or weighed else None
    found = outcome(moe, x[here], up[here], given)
    if shared:
        expected = outcome(whole, x[:11], up[:11], times[:11] if weighed else None)
        expected.out, expected.x = (
            torch.cat([part, torch.zeros(3, HIDDEN)])[here] for part in (expected.out, expected.x)
        )
        found.out = torch.cat([found.out[: 7 - 3 * rank], torch.zeros(3 * rank, HIDDEN)])  # of no account
    else:
        expected = outcome(whole, x[here], up[here], given)
        for part in (expected.router, expected.gate_up, expected.down):
            dist.all_reduce(part)
    dist.all_reduce(found.router)  # the router's gradient is a share of a sum
    expected.gate_up, expected.down = own(expected.gate_up, mesh), own(expected.down, mesh)
    names = ("out", "x", "router", "gate_up", "down")
    scores = {name: worst([getattr(found, name)], [getattr(expected, name)]) for name in names}
    for name in ("counts", "probs", "entropy"):
        scores[name] = worst([getattr(found.routing, name)], [getattr(expected.routing, name)])
    scores["balance"] = worst([found.routing.balance()], [expected.routing.balance()])
    return scores


def whole_layers(dispatch: str) -> dict[tuple[bool, bool], dict[str, float]]:
    both = (False, True)
    return {(shared, weighed): whole_layer(dispatch, shared, weighed) for shared in both for weighed in both}


@pytest.mark.parametrize("dispatch", ["local", "all_to_all"])
def test_a_layer_equals_the_whole_one(dispatch: str) -> None:
    for (shared, weighed), scores in world.run(whole_layers, 2, dispatch)[0].items():
        assert max(scores.values()) <= 1e-5, (shared, weighed, scores)


def uneven() -> tuple[list[float], list[int]]:
    """Rank 0 sends all its rows to its own expert, rank 1 two of its three."""
    moe = on_mesh(layer(2, 1), mesh_of(2), "all_to_all")
    with torch.no_grad():
        moe.products(torch.ones(3, HIDDEN), torch.tensor([3, 0] if dist.get_rank() == 0 else [2, 1]))
    return expert.shares(moe), moe.load  # pyright: ignore[reportReturnType]


def test_the_busiest_rank_is_told() -> None:
    assert world.run(uneven, 2) == [([pytest.approx(5 / 3)], [5, 1])] * 2
    assert expert.shares(layer(2, 1)) == []
    assert expert.figures([1.0, 2.0]) == {"expert_imbalance": 1.5}
    assert expert.figures([]) == {}
