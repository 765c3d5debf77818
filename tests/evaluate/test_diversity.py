"""NoveltyBench's partition: short texts by shared words, long ones by overlap, numbers always apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.evaluate.diversity import distinct, equivalent, partition


@pytest.mark.parametrize(
    ("left", "right", "alike"),
    [
        ("red apple", "an apple", True),
        ("red", "blue", False),
        ("red green", "red green blue yellow", True),
        ("red", "red green blue", False),
        ("3", "4", False),
        ("2+3=5", "2+4=6", False),
        ("There are two cats and one dog in it", "There are two cats and one dog here", True),
        ("There are 2 cats and 1 dog in it", "There are 2 cats and 3 dogs in it", False),
        ("", "", True),
    ],
)
def test_equivalent(left: str, right: str, alike: bool) -> None:
    assert equivalent(left, right) is alike
    assert equivalent(right, left) is alike


def test_partition_compares_with_first_members_only() -> None:
    near = {("a", "b"), ("b", "c")}
    classes = partition(["a", "b", "c", "a"], lambda x, y: x == y or (y, x) in near or (x, y) in near)
    assert classes == [0, 0, 1, 0]


@given(st.lists(st.sampled_from(["red", "blue car", "7", "8", "红色"]), min_size=1, max_size=8))
def test_distinct_counts_classes(responses: list[str]) -> None:
    assert distinct(responses) == len(set(responses))
