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


# ------------------------------------------------------------------------------------------------ samples alike


@st.composite
def families(draw: st.DrawFn) -> tuple[list[int], list[str | None]]:
    lengths = draw(st.lists(st.integers(1, 40), max_size=80))
    return lengths, [draw(st.sampled_from([None, "a", "b", "c", "d"])) for _ in lengths]


@given(families(), st.integers(1, 60), st.integers(1, 5))
def test_with_beginnings_nothing_is_cut_lost_repeated_or_packed_too_early(
    family: tuple[list[int], list[str | None]], size: int, window: int
) -> None:
    lengths, alike = family
    packing = plan(lengths, size, window, alike)
    assert sorted([i for pack in packing.packs for i in pack] + packing.too_long) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in pack) <= size for pack in packing.packs)
    assert all(lengths[i] > size for i in packing.too_long)
    assert all(pack == sorted(pack) for pack in packing.packs)
    firsts = [pack[0] for pack in packing.packs]
    assert firsts == sorted(firsts)
    before = 0  # tokens of the samples before, which fill at least so many packs
    number = {i: n for n, pack in enumerate(packing.packs) for i in pack}
    for index, length in enumerate(lengths):
        if length <= size:
            assert number[index] >= before // size - window
            before += length


@given(st.lists(st.integers(1, 40), max_size=80), st.integers(1, 60), st.integers(1, 5))
def test_beginnings_that_no_two_have_change_nothing(lengths: list[int], size: int, window: int) -> None:
    expected = plan(lengths, size, window).packs
    assert plan(lengths, size, window, [None] * len(lengths)).packs == expected
    assert plan(lengths, size, window, [str(i) for i in range(len(lengths))]).packs == expected


def test_samples_alike_come_together() -> None:
    assert plan([4, 5, 3, 4, 4], 10, alike=["a", None, None, "a", None]).packs == [[0, 3], [1, 2], [4]]
    assert plan([4, 5, 3, 4, 4], 10).packs == [[0, 1], [2, 3], [4]]


def test_a_family_goes_into_a_pack_that_holds_all_of_it() -> None:
    assert plan([6, 3, 9, 2], 10, alike=[None, "a", None, "a"]).packs == [[0], [1, 3], [2]]
    assert plan([6, 3, 9, 2], 10, alike=[None, "a", "b", "c"]).packs == [[0, 1], [2], [3]]


def test_no_more_come_along_than_fit() -> None:
    assert plan([4, 4, 4, 4], 10, alike=["a"] * 4).packs == [[0, 1], [2, 3]]
    assert plan([4, 9, 4, 1], 10, alike=["a"] * 4).packs == [[0, 2, 3], [1]]


def test_the_same_sample_of_another_epoch_does_not_come_along() -> None:
    names = ["a0", "a1", "b0", "a0", "a1", "b0"]
    alike: list[str | None] = ["a", "a", "b", "a", "a", "b"]
    assert plan([2] * 6, 8, alike=alike, names=names).packs == [[0, 1, 2, 5], [3, 4]]
    assert plan([2] * 6, 8, alike=alike).packs == [[0, 1, 3, 4], [2, 5]]
    epochs = plan([2] * 12, 8, alike=[None, "a"] * 6, names=["t", "a"] * 6)
    assert epochs.packs == plan([2] * 12, 8).packs, "one question about a picture is packed as ever"


def test_samples_that_the_window_parts_are_packed_apart() -> None:
    lengths, alike = [5, *[10] * 8, 5], ["a", *[None] * 8, "a"]
    assert plan(lengths, 10, 16, alike).packs[0] == [0, 9]
    assert plan(lengths, 10, 8, alike).packs[0] == [0]


def test_many_questions_about_many_pictures_share_most_packs_and_fill_them() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(60, 200) for _ in range(4000)]
    alike: list[str | None] = [str(i // 4) for i in range(4000)]
    packing = plan(lengths, 2048, alike=alike)
    together = sum(len(pack) - len({alike[i] for i in pack}) for pack in packing.packs)
    assert together > 0.95 * 3000
    assert packing.fill > 0.92
