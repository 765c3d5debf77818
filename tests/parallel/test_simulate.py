"""The simulated timeline of a pipeline: closed forms, and rules that hold for any."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.parallel import orders
from open4ov.parallel.simulate import bubble, timeline


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["gpipe", "1f1b"]),
    st.integers(1, 8),
    st.integers(1, 20),
    st.floats(0.1, 3),
    st.floats(0.1, 3),
    st.floats(0.1, 3),
)
def test_equal_stages(schedule: str, p: int, m: int, forward: float, backward: float, weight: float) -> None:
    assert bubble(schedule, p, 1, m, forward, backward, weight) == pytest.approx((p - 1) / (m + p - 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.floats(0.1, 3), st.floats(0.1, 3))
def test_equal_stages_interleaved(p: int, v: int, rounds: int, forward: float, backward: float) -> None:
    m = p * rounds
    found = bubble("interleaved", p, v, m, forward, backward, backward)
    assert found == pytest.approx((p - 1) / (v * m + p - 1))


def test_zbv_has_no_bubble_but_at_its_ends() -> None:
    """With F = I = W the ranks' idle time is p - 1 of 6 m + p - 1 units, however many microbatches there are."""
    for p in (2, 3, 4, 6):
        for m in (2 * p, 3 * p, 5 * p):
            played = timeline("zbv", p, 2, m, 1.0, 1.0, 1.0)
            assert played.seconds == 6 * m + p - 1


def test_zero_bubble_waits_less_than_interleaved() -> None:
    for p, v, m in ((2, 2, 8), (4, 2, 8), (4, 1, 16)):
        assert bubble("interleaved_zero_bubble", p, v, m, 1, 1, 1) < bubble("interleaved", p, v, m, 1, 1, 1)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_timeline_keeps_the_order_and_every_dependency(data: st.DataObject) -> None:
    schedule = data.draw(st.sampled_from(orders.NAMES))
    p = data.draw(st.integers(1, 4))
    v = 2 if schedule == "zbv" else 1 if schedule in ("gpipe", "1f1b") else data.draw(st.integers(1, 3))
    m = orders.needed(schedule, p, data.draw(st.integers(1, 8)))
    each = st.lists(st.integers(1, 9), min_size=p * v, max_size=p * v)
    forward, backward, weight = data.draw(each), data.draw(each), data.draw(each)
    send = data.draw(st.integers(0, 3))
    played = timeline(schedule, p, v, m, forward, backward, weight, send)
    assert [[span.action for span in own] for own in played.ranks] == orders.order(schedule, p, v, m)
    when = {span.action: span for own in played.ranks for span in own}
    full = "I" if schedule in orders.SPLIT else "B"
    for own in played.ranks:
        assert all(a.end <= b.begin for a, b in pairwise(own))
    for (stage, kind, i), span in when.items():
        length = {"F": forward[stage], "I": backward[stage], "W": weight[stage]}
        length["B"] = length["I"] + length["W"]
        assert span.end - span.begin == length[kind]
        if kind == "F" and stage:
            late = send if orders.rank_of(schedule, stage, p) != orders.rank_of(schedule, stage - 1, p) else 0
            assert span.begin >= when[orders.Action(stage - 1, "F", i)].end + late
        if kind in "BI":
            assert span.begin >= when[orders.Action(stage, "F", i)].end
            if stage < p * v - 1:
                late = send if orders.rank_of(schedule, stage, p) != orders.rank_of(schedule, stage + 1, p) else 0
                assert span.begin >= when[orders.Action(stage + 1, full, i)].end + late
        if kind == "W":
            assert span.begin >= when[orders.Action(stage, "I", i)].end
    # Nothing could begin earlier: an action begins when its rank is free or what it needs has just come.
    assert played.seconds <= sum(forward[s] + backward[s] + weight[s] + 2 * send for s in range(p * v)) * m


def test_the_slowest_stage_sets_the_pace() -> None:
    played = timeline("1f1b", 2, 1, 100, [3.0, 1.0], [3.0, 1.0], [3.0, 1.0])
    assert played.idle()[0] < 0.01
    assert played.idle()[1] == pytest.approx(2 / 3, abs=0.01)
    assert played.bubble == pytest.approx(1 / 3, abs=0.01)


def test_microbatches_in_flight() -> None:
    """gpipe holds all, 1f1b as many as there are ranks from this one on."""
    assert timeline("gpipe", 4, 1, 8, 1, 1, 1).in_flight() == [8] * 4
    assert timeline("1f1b", 4, 1, 8, 1, 1, 1).in_flight() == [4, 3, 2, 1]
    assert timeline("zbv", 4, 2, 16, 1, 1, 1).in_flight() == [8, 8, 8, 8]


def test_a_wrong_number_of_times() -> None:
    with pytest.raises(ValueError, match="3 times for 4 stages"):
        bubble("interleaved", 2, 2, 4, [1, 1, 1], 1, 1)
