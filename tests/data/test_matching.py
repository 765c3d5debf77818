"""Topics, coarse and fine matching, density and budget: against plain re-statements of what they should do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.data import density, labels, topics
from open4ov.data.match import above_others, fine, top_k
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


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_top_k_is_exact(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    # few distinct values and rows of unequal length: many ties, and a wrong normalisation axis would show
    queries = rng.integers(-1, 2, (5, 3)).astype(np.float32) * rng.integers(1, 9, (5, 1))
    keys = rng.integers(-1, 2, (9, 3)).astype(np.float32) * rng.integers(1, 9, (9, 1))
    allowed = rng.random((5, 9)) < 0.7
    found = top_k(queries.astype(np.float32), keys.astype(np.float32), allowed, k)
    for q, row in enumerate(found):
        want: list[tuple[float, int]] = []
        for n in range(9):
            if allowed[q, n]:
                lengths = float(np.linalg.norm(queries[q])) * float(np.linalg.norm(keys[n]))
                want.append((-(float(queries[q] @ keys[n]) / lengths if lengths else 0.0), n))
        want.sort(key=lambda pair: (round(pair[0], 5), pair[1]))
        assert len(row) == min(k, len(want))
        assert [score for _, score in row] == pytest.approx([-score for score, _ in want[:k]], abs=1e-5)
        assert all(allowed[q, n] for n, _ in row)


def test_ties_go_to_the_lower_index_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.ones((20, 4), dtype=np.float32)
    queries = np.ones((7, 4), dtype=np.float32)
    allowed = np.ones((7, 20), dtype=np.bool_)
    whole = top_k(queries, keys, allowed, 5)
    assert [[n for n, _ in row] for row in whole] == [[0, 1, 2, 3, 4]] * 7
    monkeypatch.setattr("open4ov.data.match.BLOCK", 2)
    assert top_k(queries, keys, allowed, 5) == whole


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
    assert unique([first, again, other]) == [first, other]
    assert first.path == "Recognition ~ Symbol naming ~ Naming road signs"
    assert first.text.startswith("Automotive ~ Road signs ~ Recognition")
    assert [(label.axis, label.l1, label.l2) for label in first.labels()] == [
        ("domain", "Automotive", "Road signs"),
        ("ability", "Recognition", "Symbol naming"),
    ]


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
