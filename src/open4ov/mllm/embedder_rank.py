"""The provider of kind `embedder`: coarse matching without an MLLM (role `rank` only, paper §2.2.3).

Domains are ranked by the cosine of the image with what stands under each L1: its name, and each L2 label with the
things it shows; the best of them counts. `Others` stands where that falls below a threshold: the one that ships with
the embedder `open4ov` was calibrated on pictures held out from its training (`bench/embedder.py`), for any other
embedder the recipe gives it. What an image can be asked follows from what it shows: an ability counts by the L2 domain
labels that name it, weighted by how near they are, and stands above `Others` with at least half of the weight.

It gives no description of the image, since its embedder sees the image itself in fine matching.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open4ov.mllm.ask import AnswerError, ProviderError, Request
from open4ov.mllm.embedders import Embedder
from open4ov.mllm.towers import CALIBRATION, unit
from open4ov.recipe_embedder import SHIPPED, EmbedderSection
from open4ov.recipe_providers import ProviderSection

Floats = NDArray[np.float32]
OTHERS = "Others"
SHARPNESS = 20.0
"""Of the weights of L2 labels: a cosine lower by 0.05 weighs 1/e"""


class EmbedderProvider:
    """Raises `ProviderError` when built with an embedder that sees no images, or without a threshold."""

    def __init__(self, settings: ProviderSection, where: str, embedder: Embedder, section: EmbedderSection) -> None:
        if not embedder.sees:
            raise ProviderError(f"{where}: data.embedder embeds texts only; this kind needs one that sees images")
        if settings.others is None and section.name != SHIPPED:
            raise ProviderError(f"{where}.others: give the cosine below which no label applies to an image")
        self._others = others() if settings.others is None else settings.others
        self._embedder, self._where = embedder, where
        self._name = section.name or section.directory or (section.endpoint and section.endpoint.model) or ""
        self._labels: dict[str, tuple[list[Any], list[int], Floats]] = {}
        self.concurrency = section.endpoint.concurrency if section.endpoint else 1

    def identity(self, role: str) -> str:
        return f"embedder {self._name}"

    def answer(self, request: Request) -> dict[str, Any]:
        if request.role != "rank":
            raise AnswerError(
                f"{self._where}: an embedder ranks labels (role rank) and plays no role {request.role!r}; give that "
                "role another provider in data.roles"
            )
        labels = request.prompt.values["labels"]
        image = unit(self._embedder.images(list(request.images)))[0]
        entries, owner, texts = self._domains(labels["domain"])
        near = texts @ image
        best = label_scores(near[None], owner)[0].tolist()
        order = sorted(range(len(entries)), key=lambda number: (-best[number], number))
        above = sum(score >= self._others for score in best)
        names = [str(entries[number]["name"]) for number in order]
        return {
            "description": "",
            "domain": [*names[:above], OTHERS, *names[above:]],
            "ability": _abilities(labels["ability"], entries, near, owner),
        }

    def _domains(self, entries: list[Any]) -> tuple[list[Any], list[int], Floats]:
        """The L1 entries, to which of them each text belongs, and the texts' rows [T, D]; embedded once a tree."""
        name = json.dumps(entries, sort_keys=True, ensure_ascii=False)
        if name not in self._labels:
            owner = [number for number, entry in enumerate(entries) for _ in texts_of(entry)]
            texts = [text for entry in entries for text in texts_of(entry)]
            self._labels[name] = entries, owner, unit(self._embedder.texts(texts))
        return self._labels[name]


def texts_of(entry: dict[str, Any]) -> list[str]:
    """What stands for an L1 label: its name, and each L2's name with its things."""
    return [str(entry["name"]), *(f"{l2['name']}: {', '.join(l2['things'])}" for l2 in entry["l2"])]


def label_scores(near: Floats, owner: list[int]) -> Floats:
    """[N, labels]: of cosines with the labels' texts [N, T] the best of each label; `owner` [T] says whose they are."""
    places = np.array(owner)
    return np.stack([near[:, places == number].max(axis=1) for number in range(max(owner) + 1)], axis=1)


def _abilities(entries: list[Any], domains: list[Any], near: Floats, owner: list[int]) -> list[str]:
    """Ability names by the weight of the L2 domain labels that suit them."""
    weights: dict[str, float] = {str(entry["id"]): 0.0 for entry in entries}
    place, total = 0, 0.0
    top = float(near.max())
    for entry in domains:
        place += 1  # the text of the L1's own name
        for l2 in entry["l2"]:
            weight = float(np.exp(SHARPNESS * (float(near[place]) - top)))
            total += weight
            for ability in l2["abilities"]:
                if ability in weights:
                    weights[ability] += weight
            place += 1
    assert place == len(owner)
    order = sorted(range(len(entries)), key=lambda number: (-weights[str(entries[number]["id"])], number))
    names = [str(entries[number]["name"]) for number in order]
    above = sum(weight >= total / 2 > 0 for weight in weights.values())
    return [*names[:above], OTHERS, *names[above:]]


@lru_cache(maxsize=1)
def others() -> float:
    """The shipped embedder's threshold."""
    return float(json.loads(CALIBRATION.read_text("utf-8"))["others"])
