"""How many prompts are rolled out, which of their groups are trained on, and in which order the tasks come."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from online import group, section, tasks, train

from open4ov.errors import UserError
from open4ov.model import Qwen3VL
from open4ov.recipe_rl_loop import OversamplingSection
from open4ov.rl.sampling import Cursor, RatioEma, most_even
from open4ov.rl.state import State


def test_golden_vector_of_the_moving_average() -> None:
    """β = 0.9 from 1; B = 64 (reference/trainers.md §2)."""
    ratio = RatioEma(OversamplingSection(enabled=True, beta=0.9))
    assert ratio.count(64) == 64
    expected = [(0.5, 1.1, 71), (0.5, 1.19, 77), (0.25, 1.204333, 78), (0.75, 1.4839, 95)]
    for dead, value, count in expected:
        ratio.see(dead)
        assert ratio.value == pytest.approx(value, abs=1e-6)
        assert ratio.count(64) == count


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(1, 8), st.floats(0, 0.99), st.integers(1, 64))
def test_it_is_bounded(deads: list[float], cap: float, beta: float, prompts: int) -> None:
    ratio = RatioEma(OversamplingSection(enabled=True, beta=beta, cap=cap))
    for dead in deads:
        ratio.see(dead)
        assert 1 - 1e-9 <= ratio.value <= cap + 1e-9
        assert prompts <= ratio.count(prompts) <= prompts * cap + 1


def test_a_hundred_prompts_and_a_tenth_are_a_hundred_and_ten() -> None:
    """1.1 is no binary fraction: 100 × 1.1 is a little above 110."""
    ratio = RatioEma(OversamplingSection(enabled=True), value=0.9 * 1 + 0.1 * 2)
    assert 100 * ratio.value > 110
    assert ratio.count(100) == 110


def test_it_stays_one_where_it_is_off() -> None:
    ratio = RatioEma(OversamplingSection())
    ratio.see(1.0)
    assert (ratio.value, ratio.count(7)) == (1.0, 7)


def test_the_most_even_live_groups_are_kept_in_their_order() -> None:
    groups = [
        group("a", "1000"),
        group("b", "1100"),
        group("c", "1111", dead=True),
        group("d", "1100", dead=True),  # even, and yet it teaches nothing
        group("e", "1110"),
        group("f", "1010"),
    ]

    def names(count: int) -> str:
        return "".join(one.task.sample.id for one in most_even(groups, count))

    assert [names(count) for count in range(1, 7)] == ["b", "bf", "abf", "abef", "abdef", "abcdef"]


# ------------------------------------------------------------------------------------------------ the cursor


def test_tasks_come_in_their_order_first_and_shuffled_later() -> None:
    cursor = Cursor("abcdef", 0)
    seen = []
    for _ in range(6):
        taken = cursor.take(2)
        assert taken == cursor.take(2), "looking moves nothing"
        cursor.settle(taken)
        seen += taken
    assert seen[:6] == list("abcdef")
    assert sorted(seen[6:]) == list("abcdef")
    assert seen[6:] != list("abcdef")
    assert cursor.epoch == 1
    with pytest.raises(ValueError, match="7 different tasks were asked for, and there are 6"):
        cursor.take(7)


def test_what_was_alive_and_not_used_comes_again_in_the_same_epoch() -> None:
    cursor = Cursor("abcd", 0)
    cursor.settle(cursor.take(3), again=["b"])
    assert cursor.take(2) == ["d", "b"]
    assert cursor.epoch == 0


@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.booleans(), min_size=9, max_size=9)), max_size=25),
    st.integers(0, 9),
)
def test_no_task_is_lost_and_none_comes_twice_in_a_step(
    size: int, steps: list[tuple[int, list[bool]]], stop: int
) -> None:
    """Whatever comes again: a step's tasks differ, and at an epoch's end every task was settled once in each. What JSON
    has kept goes on alike."""
    names = [f"t{i}" for i in range(size)]
    cursor, settled = Cursor(names, 3), Counter[str]()
    for number, (wanted, marks) in enumerate(steps):
        if number == stop:
            notes = json.loads(json.dumps(cursor.notes()))
            cursor = Cursor(names, 3)
            cursor.restore(notes)
        taken = cursor.take(min(wanted, size))
        assert len(taken) == len(set(taken)) == min(wanted, size)
        again = [name for name, mark in zip(taken, marks, strict=False) if mark][: len(taken) - 1]
        cursor.settle(taken, again)
        settled.update(set(taken) - set(again))
        waiting = cursor.notes()["queue"]
        assert set(waiting) | settled.keys() >= set(names)
        assert all(count <= cursor.epoch + 1 for count in settled.values())
        if not waiting:
            assert set(settled.values()) == {cursor.epoch + 1}


# ------------------------------------------------------------------------------------------------ in a training


def test_a_training_that_oversamples_counts_what_it_did_not_use(tiny_dir: Path) -> None:
    options = {"steps": 6, "reward": "online:odd", "oversampling": {"enabled": True, "beta": 0.0, "cap": 3}}
    _, result = train(tiny_dir, pool=9, **options)
    curve, summary = result.curve, result.summary
    assert curve[0]["rolled"] == 4
    for before, point in pairwise(curve):
        e = min(1 / (1 - before["dead"]), 3) if before["dead"] < 1 else 3
        assert point["oversampling"] == pytest.approx(e, abs=2e-4)
        assert point["rolled"] == min(9, -(-4 * e // 1))
        assert point["unused"] == point["rolled"] - 4
    assert summary["rolled"] == sum(point["rolled"] for point in curve)
    assert summary["unused"] == sum(point["unused"] for point in curve)
    assert summary["responses"] == 8 * summary["rolled"]


def test_what_oversampling_is_for_is_in_the_curve(tiny_dir: Path) -> None:
    """The dead share of the groups trained on: of five groups three are dead, of the three that are trained on one."""
    options = section(prompts=3, oversampling={"enabled": True})
    state = State.begin(Qwen3VL.from_pretrained(tiny_dir), tasks(6), options, 0, None, [])
    rights = ("1111", "1100", "0000", "1000", "1111")
    groups = [group(f"t{i}", right, dead=len(set(right)) == 1) for i, right in enumerate(rights)]
    state.settle(groups, most_even(groups, 3), {"dead": 0.6})
    (point,) = state.curve
    assert (point["rolled"], point["unused"], point["dead_trained"]) == (5, 2, 0.3333)


def test_a_pool_must_have_a_step_s_tasks(tiny_dir: Path) -> None:
    with pytest.raises(UserError, match=r"rl\.prompts: 4 tasks make a step, and the pool has 3"):
        train(tiny_dir, pool=3)
