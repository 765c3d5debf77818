from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.sft.packing import plan


def test_first_fit_in_order() -> None:
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


@pytest.mark.parametrize(("lengths", "size"), [([0], 8), ([1], 0)])
def test_senseless_input_is_refused(lengths: list[int], size: int) -> None:
    with pytest.raises(ValueError, match=r"tokens"):
        plan(lengths, size)


def test_nothing_to_pack() -> None:
    assert plan([], 8).packs == []
    assert plan([], 8).fill == 1.0
