"""Near-duplicate texts against brute force; who stays; grouped splits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.data import dedup, splits

TEXT = st.text(alphabet="ab猫狗 c", max_size=14)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, max_size=12), st.sampled_from([0.2, 0.5, 2 / 3, 0.8, 1.0]))
def test_text_pairs_are_those_of_brute_force(texts: list[str], least: float) -> None:
    sets = [dedup.grams(text) for text in texts]
    expected = [
        (i, j)
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if sets[i] and sets[j] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= least - 1e-12
    ]
    assert [pair[:2] for pair in dedup.text_pairs(texts, least)] == expected


def test_width_case_and_punctuation_make_no_difference() -> None:
    pairs = dedup.text_pairs(["What is this sign?", "what is THIS sign", "图中有几只猫？", "图中有几只猫", "？！"], 1.0)
    assert [pair[:2] for pair in pairs] == [(0, 1), (2, 3)]


def test_the_first_in_rank_stays_and_nothing_goes_at_second_hand() -> None:
    pairs = [(0, 1, 2.0), (1, 2, 2.0), (2, 3, 1.0)]
    assert dedup.keep(4, pairs, [(0, "a"), (0, "b"), (0, "c"), (0, "d")]) == {1: (0, 2.0), 3: (2, 1.0)}
    assert dedup.keep(4, pairs, [(3, "a"), (0, "b"), (1, "c"), (2, "d")]) == {0: (1, 2.0), 2: (1, 2.0)}
    assert dedup.clusters(5, pairs) == [0, 0, 0, 0, 4]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_what_stays_has_no_pair_left_and_what_goes_has_one_that_stays(count: int, drawn: list[tuple[int, int]]) -> None:
    pairs = [(min(p), max(p), 1.0) for p in drawn if p[0] != p[1] and max(p) < count]
    gone = dedup.keep(count, pairs, [(n * 7 % 5, str(n)) for n in range(count)])
    assert not any(i not in gone and j not in gone for i, j, _ in pairs)
    assert all(other not in gone and (min(at, other), max(at, other), 1.0) in pairs for at, (other, _) in gone.items())


GROUPS = st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=3), max_size=25)


@settings(max_examples=150, deadline=None)
@given(GROUPS, st.integers(0, 5))
def test_no_group_is_on_two_sides_and_the_order_does_not_matter(keys: list[list[str]], seed: int) -> None:
    shares = {"val": 0.3, "test": 0.3}
    sides = splits.assign(keys, shares, seed)
    where: dict[str, str] = {}
    for names, side in zip(keys, sides, strict=True):
        assert all(where.setdefault(name, side) == side for name in names)
    assert splits.assign(keys[::-1], shares, seed) == sides[::-1]


@given(st.lists(st.text(max_size=4), min_size=1, max_size=20), st.lists(st.text(max_size=4), max_size=20))
def test_added_samples_move_nobody(before: list[str], added: list[str]) -> None:
    shares = {"val": 0.2, "test": 0.2}
    alone = splits.assign([[name] for name in before], shares, 1)
    assert splits.assign([[name] for name in before + added], shares, 1)[: len(before)] == alone


def test_shares_are_met_on_average_and_the_deviation_is_said() -> None:
    shares = {"val": 0.1, "test": 0.2}
    sides = splits.assign([[f"patient {n}"] for n in range(20_000)], shares, 0)
    counts = Counter(sides)
    figures = splits.figures(sides, shares)
    assert figures["samples"] == {"train": counts["train"], "val": counts["val"], "test": counts["test"]}
    for split, asked in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert figures["deviation"][split] == pytest.approx(counts[split] / 20_000 - asked, abs=1e-6)
        assert abs(figures["deviation"][split]) < 0.01
    assert sides != splits.assign([[f"patient {n}"] for n in range(20_000)], shares, 1)
    assert set(splits.assign([["x"]] * 5, {}, 0)) == {"train"}
