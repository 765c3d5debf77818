"""NoveltyBench's partition: short texts by shared words, long ones by overlap, numbers always apart; and its figures.

tests/golden/novelty.json was made by inspect-evals' own code; the rest is held against the definitions, enumerated.
"""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.evaluate.diversity import (
    distinct,
    entropy,
    equivalent,
    partition,
    same_answer,
    self_similarity,
    unigrams,
    utility,
    utility_of,
)
from open4ov.mllm.embedding import embed_texts

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "novelty.json").read_text())["cases"]
RULES = {
    "unigrams": unigrams,
    "near": lambda left, right: abs(int(left) - int(right)) <= 1,  # not transitive
    "initial": lambda left, right: left[:1] == right[:1],
}


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


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['rule']}-{len(case['responses'])}")
def test_what_inspect_evals_computes(case: dict[str, Any]) -> None:
    same = RULES[case["rule"]]
    assert partition(case["responses"], same) == case["classes"]
    assert distinct(case["responses"], same) == case["distinct"]
    found = utility(case["responses"], case["quality"], same, case["patience"])
    assert found == pytest.approx(case["utility"], abs=1e-12)


CLASSES = st.lists(st.integers(0, 4), min_size=1, max_size=10).map(
    lambda labels: [list(dict.fromkeys(labels)).index(label) for label in labels]
)


@given(CLASSES, st.data())
def test_utility_by_its_definition(classes: list[int], data: st.DataObject) -> None:
    quality = data.draw(st.lists(st.floats(0, 10), min_size=len(classes), max_size=len(classes)))
    patience = data.draw(st.floats(0.05, 1))
    weights = [patience**place for place in range(len(classes))]
    new = [index not in classes[:place] for place, index in enumerate(classes)]
    expected = sum(w * q for w, q, n in zip(weights, quality, new, strict=True) if n) / sum(weights)
    found = utility_of(classes, quality, patience)
    assert found == pytest.approx(expected, abs=1e-9)
    assert found <= max(quality) + 1e-9
    assert utility_of(classes, [1.0] * len(classes), 1.0) == pytest.approx(len(set(classes)) / len(classes))


@given(CLASSES)
def test_entropy_by_enumeration(classes: list[int]) -> None:
    expected = sum(
        math.log2(len(classes) / classes.count(index)) / len(classes) for index in classes
    )  # the mean surprise of a response
    assert entropy(classes) == pytest.approx(expected, abs=1e-12)
    assert 0 <= entropy(classes) <= math.log2(len(classes)) + 1e-12
    if len(set(classes)) == 1:
        assert entropy(classes) == 0


@given(
    st.lists(st.sampled_from(["a red car", "two cats", "红色的车", "...", "The answer is 7"]), min_size=2, max_size=7)
)
def test_self_similarity_by_pairs(responses: list[str]) -> None:
    rows = embed_texts(responses).astype(float)
    expected = np.mean([a @ b for a, b in combinations(rows, 2)])
    assert self_similarity(responses) == pytest.approx(expected, abs=1e-5)
    scaled = self_similarity(responses, lambda texts: 3 * embed_texts(texts))  # the length of rows counts for nothing
    assert scaled == pytest.approx(expected, abs=1e-5)


def test_alike_responses_are_wholly_similar() -> None:
    assert self_similarity(["a red car"] * 4) == pytest.approx(1)
    assert self_similarity(["a red car", "two cats sit"]) < 0.3


def test_answers_are_what_is_in_the_box() -> None:
    assert same_answer("3 and 4 make \\boxed{7}", "four plus three: \\boxed{7.0}")
    assert not same_answer("3 and 4 make \\boxed{7}", "3 and 4 make \\boxed{8}")
    assert same_answer("Red.", "red")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: utility([], []), "at least one"),
        (lambda: utility(["a"], [1, 2]), "as many"),
        (lambda: utility(["a"], [1], patience=0), "above 0"),
        (lambda: entropy([]), "at least one"),
        (lambda: self_similarity(["a"]), "at least two"),
    ],
)
def test_bad_input(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()
