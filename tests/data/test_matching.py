"""Topics, coarse and fine matching, density and budget: against plain re-statements of what they should do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.data import density, labels, topics
from open4ov.data.match import above_others, faults, fine, overlap
from open4ov.data.nearest import Keys
from open4ov.data.topics import Topic, unique
from open4ov.errors import UserError
from open4ov.mllm import AnswerError, Asker, Request
from open4ov.recipe import DataSection

NAMES = ["Automotive", "Nature", "Education", "Industry"]


@pytest.mark.parametrize(
    ("ranking", "top", "kept"),
    [
        (["Nature", "Automotive", "Others", "Education"], 3, ["Nature", "Automotive"]),
        (["Nature", "Automotive", "Education", "Industry", "Others"], 3, ["Nature", "Automotive", "Education"]),
        (["Others", "Nature"], 3, []),
        (["Nature", "Automotive"], 3, []),  # no boundary drawn: nothing is known to be above it
        ([" nature ", "NATURE", "Cooking", "others"], 3, ["Nature"]),
        ([], 3, []),
    ],
)
def test_only_labels_above_others_are_kept(ranking: list[str], top: int, kept: list[str]) -> None:
    assert above_others(ranking, NAMES, top) == kept


def brute(queries: Any, keys: Any, groups: Any, allowed: Any, k: int) -> list[list[tuple[int, float]]]:
    """Every cosine in float64, one by one; ties, seen with five digits, to the lower index."""
    found: list[list[tuple[int, float]]] = []
    for q in range(len(queries)):
        row: list[tuple[float, int]] = []
        for n in range(len(keys)):
            if allowed[q, groups[n]]:
                a, b = queries[q].astype(np.float64), keys[n].astype(np.float64)
                lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
                row.append((-float(a @ b) / lengths if lengths else 0.0, n))
        row.sort(key=lambda pair: (round(pair[0], 5), pair[1]))
        found.append([(n, -score) for score, n in row[:k]])
    return found


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.sampled_from([1, 9, 40, 150]))
def test_the_nearest_keys_are_exact(seed: int, k: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    # few distinct values and rows of unequal length: many ties, and a wrong normalisation axis would show
    queries = (rng.integers(-1, 2, (5, 3)) * rng.integers(1, 9, (5, 1))).astype(np.float32)
    keys = (rng.integers(-1, 2, (count, 3)) * rng.integers(1, 9, (count, 1))).astype(np.float32)
    groups = rng.integers(0, 4, count)
    allowed = rng.random((5, int(groups.max()) + 1)) < 0.7
    found, scores = Keys(keys, groups).nearest(queries, allowed, k)
    want = brute(queries, keys, groups, allowed, k)
    for row, values, right in zip(found.tolist(), scores, want, strict=True):
        assert [n for n in row if n >= 0] == row[: len(right)]
        assert sum(n >= 0 for n in row) == len(right) == len(set(row) - {-1})
        assert list(values[: len(right)]) == pytest.approx([score for _, score in right], abs=1e-5)
        assert all(value == -np.inf for value in values[len(right) :])


def test_the_nearest_keys_are_those_of_brute_force() -> None:
    """Random rows have no ties: the very same keys in the very same order."""
    rng = np.random.default_rng(5)
    keys, queries = rng.standard_normal((1501, 48)), rng.standard_normal((24, 48))
    keys[17] = queries[3] = 0
    groups = rng.integers(0, 12, 1501)
    allowed = rng.random((24, 12)) < 0.4
    allowed[5], allowed[6] = True, False
    found, scores = Keys(keys.astype(np.float32), groups).nearest(queries.astype(np.float32), allowed, 5)
    want = brute(queries.astype(np.float32), keys.astype(np.float32), groups, allowed, 5)
    assert [[n for n in row if n >= 0] for row in found.tolist()] == [[n for n, _ in row] for row in want]
    assert found[6].tolist() == [-1] * 5
    flat = [score for row in want for _, score in row]
    assert [float(s) for s in scores.ravel() if np.isfinite(s)] == pytest.approx(flat, abs=1e-6)


def test_ties_go_to_the_lower_index_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.ones((100, 4), dtype=np.float32)
    queries = np.ones((7, 4), dtype=np.float32)
    groups, allowed = np.zeros(100, dtype=np.int64), np.ones((7, 1), dtype=np.bool_)
    whole = Keys(keys, groups).nearest(queries, allowed, 5)
    assert whole[0].tolist() == [[0, 1, 2, 3, 4]] * 7
    monkeypatch.setattr("open4ov.data.nearest.BLOCK", 2)
    assert Keys(keys, groups).nearest(queries, allowed, 5)[0].tolist() == whole[0].tolist()
    monkeypatch.setattr("open4ov.data.nearest.AT_ONCE", 2)
    assert Keys(keys, groups).nearest(queries, allowed, 5)[0].tolist() == whole[0].tolist()
    monkeypatch.setattr("open4ov.data.nearest.SCORES", 1)  # more keys than scores may be held: one query at a time
    assert Keys(keys, groups).nearest(queries, allowed, 5)[0].tolist() == whole[0].tolist()
    empty = Keys(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)).nearest(queries, np.zeros((7, 0), np.bool_), 5)
    assert empty[0].tolist() == [[-1] * 5] * 7
    with pytest.raises(UserError, match="text 3 holds values that are not finite"):
        Keys(np.where(np.arange(10)[:, None] == 3, np.nan, keys[:10]).astype(np.float32), groups[:10])


def test_fine_matching_stays_within_the_chosen_labels() -> None:
    every = [
        Topic("a", ("Automotive", "x"), ("Counting", "y")),
        Topic("b", ("Nature", "x"), ("Counting", "y")),
        Topic("c", ("Automotive", "x"), ("Reading", "y")),
    ]
    texts = np.array([[1, 0], [1, 0], [0.9, 0.1]], dtype=np.float32)
    image = np.array([[1, 0]], dtype=np.float32)
    (found,) = fine(image, every, texts, [{"domain": ["Automotive"], "ability": ["Reading", "Counting"]}], 5)
    assert [topic.name for topic, _ in found] == ["a", "c"]
    assert fine(image, every, texts, [{"domain": [], "ability": ["Counting"]}], 5) == [[]]


def test_topics_carry_their_path_and_are_unique_within_an_ability() -> None:
    first = Topic("Naming road signs", ("Automotive", "Road signs"), ("Recognition", "Symbol naming"))
    again = Topic("naming  Road-Signs!", ("Education", "Words"), ("Recognition", "Symbol naming"))
    other = Topic("Naming road signs", ("Automotive", "Road signs"), ("Recognition", "Category"))
    assert list(unique([first, again, other])) == [first, other]
    assert first.path == "Recognition ~ Symbol naming ~ Naming road signs"
    assert first.text.startswith("Automotive ~ Road signs ~ Recognition")
    assert [(label.axis, label.l1, label.l2) for label in first.labels()] == [
        ("domain", "Automotive", "Road signs"),
        ("ability", "Recognition", "Symbol naming"),
    ]


def test_the_overlap_measure_is_the_papers() -> None:
    found = [["Nature", "Industry", "Education"], ["nature"], ["Automotive"], []]
    right = [["Education", "Healthcare"], ["Nature", "x"], ["Nature", "Education"], ["Nature", "Education"]]
    assert overlap(found, right) == {
        "images": 4, "valid": 2, "share": 0.5, "low": pytest.approx(0.1500, abs=1e-4),
        "high": pytest.approx(0.8500, abs=1e-4),
    }  # fmt: skip
    assert overlap([], [])["share"] is None
    with pytest.raises(UserError, match="1 matched images and 2 annotated"):
        overlap(found[:1], right[:2])
    with pytest.raises(UserError, match="image 1 "):
        overlap(found[:2], [["Nature"], []])


def test_what_is_wrong_with_a_ranking_is_counted() -> None:
    tree = labels.load()
    good = {axis: [*tree.names(axis), "Others"] for axis in labels.AXES}
    assert faults(good, tree) == []
    bad = {"domain": ["Cooking", "Nature", "nature", "Others"], "ability": tree.names("ability")[:-2]}
    assert Counter(faults(bad, tree)) == {
        "domain: unknown label": 1,
        "domain: ranked twice": 1,
        "domain: left out": len(tree.domain) - 1,
        "ability: no Others": 1,
        "ability: left out": 2,
    }


def test_topics_lead_back_to_both_parents_and_through_a_file(tmp_path: Path) -> None:
    tree = labels.load()
    found, _ = topics.generate(Asker(DataSection()), tree, {"Nature", "Automotive"}, {"Counting"})
    assert topics.parents(found[0], tree)[0].startswith("automotive.")
    assert topics.write(tmp_path / "t.parquet", iter(found), tree) == len(found)
    assert list(topics.read(tmp_path / "t.parquet")) == found
    lost = Topic("t", ("Nature", "Mermaids"), ("Counting", "Object counting"))
    with pytest.raises(UserError, match="'Nature ~ Mermaids', which version 2"):
        topics.parents(lost, tree)
    with pytest.raises(UserError, match="no such file"):
        list(topics.read(tmp_path / "none.parquet"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a readable Parquet file of topics"):
        list(topics.read(tmp_path / "bad.parquet"))


def test_batches_change_no_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = labels.load()
    whole, _ = topics.generate(Asker(DataSection()), tree, {"Nature"}, {"Counting", "Comparison"}, limit=2)
    monkeypatch.setattr("open4ov.data.topics.BATCH", 3)
    assert topics.generate(Asker(DataSection()), tree, {"Nature"}, {"Counting", "Comparison"}, limit=2)[0] == whole
    most = Counter((topic.domain, topic.ability) for topic in whole)
    assert max(most.values()) == 2


class Topical:
    """Answers every pair with a name that tries to break paths, one twice, and fails at one pair."""

    concurrency = 1

    def identity(self, role: str) -> str:
        return "t"

    def answer(self, request: Request) -> dict[str, Any]:
        values = request.prompt.values
        if values["ability"]["l2"] == "Colour":
            raise AnswerError("no colour today")
        return {"topics": [f"A ~ {values['domain']['l2']}", "same", " Same ", " "]}


def test_topics_are_asked_for_chosen_labels_only_and_failures_are_listed() -> None:
    tree = labels.load()
    asker = Asker(DataSection(), {"default": Topical()})
    found, barren = topics.generate(asker, tree, {"Automotive"}, {"Recognition", "Attribute perception"})
    assert {topic.domain[0] for topic in found} == {"Automotive"}
    assert {topic.ability[0] for topic in found} == {"Recognition", "Attribute perception"}
    assert all(topic.path.count("~") == 2 for topic in found)
    assert sum(topic.name == "same" for topic in found) == len({topic.ability for topic in found}) == 9
    assert {entry["reason"] for entry in barren} == {"no colour today"}
    assert len(barren) == 5  # one for each domain L2 that has the ability


def test_the_shipped_tree_yields_distinct_topics_for_every_domain() -> None:
    tree = labels.load()
    found, barren = topics.generate(Asker(DataSection()), tree, set(tree.names("domain")), set(tree.names("ability")))
    assert not barren
    assert len(found) > 1000
    assert {topic.domain[0] for topic in found} == set(tree.names("domain"))
    assert {topic.ability[0] for topic in found} == set(tree.names("ability"))


def test_density_is_a_weighted_mean() -> None:
    weights = density.weights(DataSection(density_weights={"subjects": 2, "ocr": 6}))
    assert weights == {"subjects": 0.25, "space": 0.0, "ocr": 0.75, "knowledge": 0.0}
    scores = {"subjects": 1.0, "space": 1.0, "ocr": 0.5, "knowledge": 1.0}
    assert density.fuse(scores, weights) == pytest.approx(0.625)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 9), st.integers(0, 9))
def test_the_budget_lies_between_its_ends_and_never_falls_as_density_grows(
    a: float, b: float, least: int, more: int
) -> None:
    low, high = sorted((a, b))
    few, many = (density.budget(ids, least, least + more) for ids in (low, high))
    assert least <= few <= many <= least + more
    assert density.budget(0, least, least + more) == least
    assert density.budget(1, least, least + more) == least + more


def test_half_a_pair_rounds_up() -> None:
    assert [density.budget(ids, 2, 8) for ids in (0.08, 0.0834, 0.25, 0.75)] == [2, 3, 4, 7]
    with pytest.raises(UserError, match="max_pairs"):
        density.budget(0.5, 4, 3)
