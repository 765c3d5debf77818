"""The provider that ranks labels by an embedder, and asks no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from open4ov.data import labels, match
from open4ov.mllm import AnswerError, Asker, Picture, Prompt, ProviderError, Request
from open4ov.mllm.answers import Judgement
from open4ov.mllm.embedder_rank import EmbedderProvider, prototypes
from open4ov.mllm.embedders import FunctionEmbedder
from open4ov.recipe import DataSection, ProviderSection
from open4ov.recipe_embedder import EmbedderSection

TREE = labels.LabelTree.model_validate(
    {
        "version": 1,
        "domain": [
            {"id": "a", "name": "Animals", "l2": [
                {"id": "a.cats", "name": "Cats", "things": ["lions", "pets"], "abilities": ["see", "count"]},
                {"id": "a.dogs", "name": "Dogs", "things": ["hounds"], "abilities": ["see"]}]},
            {"id": "b", "name": "Books", "l2": [
                {"id": "b.maps", "name": "Maps", "things": ["atlases"], "abilities": ["read"]}]},
        ],
        "ability": [
            {"id": "count", "name": "Counting", "l2": [{"id": "count.all", "name": "All"}]},
            {"id": "read", "name": "Reading", "l2": [{"id": "read.all", "name": "All"}]},
            {"id": "see", "name": "Seeing", "l2": [{"id": "see.all", "name": "All"}]},
        ],
    }
)  # fmt: skip
ANGLES = {"Animals": 15, "Cats": 10, "lions": 10, "pets": 10, "Dogs": 20, "hounds": 20, "Books": 80, "Maps": 60,
          "atlases": 60}  # fmt: skip
"""Degrees from the picture."""


class Plane:
    """Texts lie in a plane; the picture at `turn` degrees in it."""

    sees = True

    def __init__(self, turn: float = 0) -> None:
        self._turn = turn

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([_at(ANGLES[text]) for text in texts], np.float32)

    def images(self, pictures: Sequence[Picture]) -> np.ndarray:
        return np.array([[5 * one for one in _at(self._turn)] for _ in pictures], np.float32)


def _at(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def provider(embedder: Any, others: float | None = 0.4, name: str = "own:embed") -> EmbedderProvider:
    settings = ProviderSection(kind="embedder", others=others)
    return EmbedderProvider(settings, "data.providers.ranker", embedder, EmbedderSection(name=name))


def picture() -> Picture:
    return Picture("sha", lambda: Image.new("RGB", (8, 8), "red"))


def test_labels_are_ranked_by_the_mean_of_their_texts() -> None:
    # animals: (cos 15° + 3 cos 10° + 2 cos 20°, the same of sines) = (5.7997, 1.4638), 14.17° away, cosine 0.970;
    # books: (cos 80° + 2 cos 60°, ...) = (1.1736, 2.7169), 66.64° away, cosine 0.397
    answer = provider(Plane(), others=0.39).answer(match.request(picture(), TREE, ""))
    assert answer["domain"] == ["Animals", "Books", "Others"]
    assert answer["description"] == ""
    answer = provider(Plane(), others=0.40).answer(match.request(picture(), TREE, ""))
    assert answer["domain"] == ["Animals", "Others", "Books"]
    answer = provider(Plane(turn=-100), others=0.1).answer(match.request(picture(), TREE, ""))
    assert answer["domain"] == ["Others", "Animals", "Books"]
    assert match.coarse(answer, TREE, 3)["domain"] == []
    assert match.objection(answer, TREE) is None
    assert match.faults(answer, TREE) == []


def test_abilities_follow_from_what_is_shown() -> None:
    # weights e^(20 (cos - cos 10°)): cats 1, dogs e^(20 · -0.04512) = 0.4056, maps e^(20 · -0.48481) = 6.1e-5; half is
    # 0.703: seeing 1.406, counting 1.0, reading 6.1e-5
    answer = provider(Plane()).answer(match.request(picture(), TREE, ""))
    assert answer["ability"] == ["Seeing", "Counting", "Others", "Reading"]
    answer = provider(Plane(turn=60)).answer(match.request(picture(), TREE, ""))
    assert answer["ability"] == ["Reading", "Others", "Seeing", "Counting"]


def test_what_stands_for_labels() -> None:
    entries = match.request(picture(), TREE, "").prompt.values["labels"]["domain"]
    tops, lows = prototypes(Plane(), entries)
    assert np.allclose(tops @ np.array([1, 0]), [0.96960, 0.39656], atol=1e-4)
    assert np.allclose(lows, [_at(10), _at(20), _at(60)], atol=1e-6)


def test_it_plays_no_other_role() -> None:
    request = Request("judge_1", Prompt("judge", {"topic": "t", "question": "q", "answer": "a"}), (), Judgement)
    with pytest.raises(AnswerError, match=r"plays no role 'judge_1'; give that role another provider in data\.roles"):
        provider(Plane()).answer(request)


def test_an_embedder_of_texts_or_without_a_threshold_is_refused() -> None:
    with pytest.raises(ProviderError, match="one that sees images"):
        provider(FunctionEmbedder(lambda texts: np.zeros((len(texts), 2), np.float32)))
    with pytest.raises(ProviderError, match=r"data\.providers\.ranker\.others"):
        provider(Plane(), others=None)


def test_a_recipe_ranks_with_the_shipped_embedder() -> None:
    section = DataSection(
        embedder=EmbedderSection(name="open4ov"),
        providers={"default": ProviderSection(), "ranker": ProviderSection(kind="embedder")},
        roles={"rank": "ranker"},
    )
    asker = Asker(section)
    tree = labels.load()
    (answer,) = asker.ask_many([match.request(picture(), tree, "")])
    assert isinstance(answer, dict)
    assert match.faults(answer, tree) == []
    assert asker.identity("rank") == "rank:embedder open4ov"
    assert asker.step("rank", "rank", answer) is None  # no model read a prompt
