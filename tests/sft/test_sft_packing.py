from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.sft.packing import plan


def test_the_fullest_pack_that_has_room_is_taken() -> None:
    packing = plan([5, 7, 2, 3, 4, 1], 10)
    assert packing.packs == [[0, 3], [1, 2, 5], [4]], "first fit would put the 2 beside the 5"
    assert plan([5, 7, 3, 5, 10, 1], 10).packs == [[0, 3], [1, 2], [4], [5]]


def test_samples_that_fit_none_open_a_pack() -> None:
    packing = plan([6, 5, 4, 3, 2, 11, 1], 10)
    assert packing.packs == [[0, 2], [1, 3, 4], [6]]
    assert packing.too_long == [5]
    assert packing.fill == pytest.approx(21 / 30)


def test_old_packs_are_closed() -> None:
    assert plan([6, 6, 6, 4], 10, window=2).packs == [[0], [1, 3], [2]]


@given(st.lists(st.integers(1, 40), max_size=80), st.integers(1, 32), st.integers(1, 5))
def test_nothing_is_cut_lost_or_repeated(lengths: list[int], size: int, window: int) -> None:
    packing = plan(lengths, size, window)
    assert sorted([i for pack in packing.packs for i in pack] + packing.too_long) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in pack) <= size for pack in packing.packs)
    assert all(lengths[i] > size for i in packing.too_long)
    assert all(pack == sorted(pack) for pack in packing.packs)
    assert packing.tokens == sum(n for n in lengths if n <= size)
    firsts = [pack[0] for pack in packing.packs]
    assert firsts == sorted(firsts)


@given(st.lists(st.integers(1, 32), max_size=200), st.integers(32, 64), st.integers(1, 5))
def test_a_pack_is_open_until_as_many_as_the_window_came_after_it(lengths: list[int], size: int, window: int) -> None:
    """By a plain search in place of the sorted list."""
    packs: list[list[int]] = []
    for index, length in enumerate(lengths):
        rooms = [(size - sum(lengths[i] for i in pack), number) for number, pack in enumerate(packs)]
        fitting = [(room, number) for room, number in rooms[-window:] if room >= length]
        if fitting:
            packs[min(fitting)[1]].append(index)
        else:
            packs.append([index])
    assert plan(lengths, size, window).packs == packs


def test_a_wider_window_fills_better() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(60, 480) for _ in range(4000)]
    fills = [plan(lengths, 512, window).fill for window in (1, 4, 16, 64)]
    assert fills == sorted(fills)
    assert fills[0] < 0.76
    assert plan(lengths, 512).fill > 0.89


@pytest.mark.parametrize(("lengths", "size"), [([0], 8), ([1], 0)])
def test_senseless_input_is_refused(lengths: list[int], size: int) -> None:
    with pytest.raises(ValueError, match=r"tokens"):
        plan(lengths, size)


def test_nothing_to_pack() -> None:
    assert plan([], 8).packs == []
    assert plan([], 8).fill == 1.0
