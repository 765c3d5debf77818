"""The provider of kind `embedder`: coarse matching without an MLLM (role `rank` only, paper §2.2.3).

Domains are ranked by the cosine of the image with each L1: the mean of the rows of its name, its L2 labels' names and
the things they show. `Others` stands where that falls below a threshold: the one that ships with the embedder `open4ov`
was calibrated on pictures held out from its training (`bench/embedder.py`), for any other embedder the recipe gives
it. What an image can be asked follows from what it shows: an ability counts by the L2 domain labels that name it,
weighted by how near they are, and stands above `Others` with at least half of the weight.

It gives no description of the image, since its embedder sees the image itself in fine matching.
"""

from __future__ import annotations

import json
import threading
from functools import lru_cache
from itertools import chain
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
        self._labels: dict[str, tuple[Floats, Floats]] = {}
        self._lock = threading.Lock()
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
        image = unit(unit(self._embedder.images(list(request.images))).mean(axis=0, keepdims=True))[0]
        entries = labels["domain"]
        tops, lows = self._domains(entries)
        best: list[float] = (tops @ image).tolist()
        order = sorted(range(len(entries)), key=lambda number: (-best[number], number))
        above = sum(score >= self._others for score in best)
        names = [str(entries[number]["name"]) for number in order]
        return {
            "description": "",
            "domain": [*names[:above], OTHERS, *names[above:]],
            "ability": _abilities(labels["ability"], entries, lows @ image),
        }

    def _domains(self, entries: list[Any]) -> tuple[Floats, Floats]:
        """`prototypes` of the labels of a request, computed once a tree."""
        name = json.dumps(entries, sort_keys=True, ensure_ascii=False)
        with self._lock:  # the first who asks embeds the labels for all
            if name not in self._labels:
                self._labels[name] = prototypes(self._embedder, entries)
            return self._labels[name]


def prototypes(embedder: Embedder, entries: list[Any]) -> tuple[Floats, Floats]:
    """What stands for labels: [L1s, D] and [L2s, D] in their order, at length 1."""
    parts = [[[str(l2["name"]), *map(str, l2["things"])] for l2 in entry["l2"]] for entry in entries]
    whole = [[str(entry["name"]), *chain.from_iterable(part)] for entry, part in zip(entries, parts, strict=True)]
    texts = list(dict.fromkeys(chain.from_iterable(whole)))
    rows = dict(zip(texts, unit(embedder.texts(texts)), strict=True))
    tops = [np.mean([rows[text] for text in group], axis=0) for group in whole]
    lows = [np.mean([rows[text] for text in group], axis=0) for group in chain.from_iterable(parts)]
    return unit(np.stack(tops)), unit(np.stack(lows))


def _abilities(entries: list[Any], domains: list[Any], near: Floats) -> list[str]:
    """Ability names by the weight of the L2 domain labels that suit them; `near` [L2s]: cosines with the image."""
    weights: dict[str, float] = {str(entry["id"]): 0.0 for entry in entries}
    shares = np.exp(SHARPNESS * (near - near.max()))
    lows = [l2 for entry in domains for l2 in entry["l2"]]
    for l2, share in zip(lows, shares.tolist(), strict=True):
        for ability in l2["abilities"]:
            if ability in weights:
                weights[ability] += share
    order = sorted(range(len(entries)), key=lambda number: (-weights[str(entries[number]["id"])], number))
    names = [str(entries[number]["name"]) for number in order]
    above = sum(weight >= float(shares.sum()) / 2 for weight in weights.values())
    return [*names[:above], OTHERS, *names[above:]]


@lru_cache(maxsize=1)
def others() -> float:
    """The shipped embedder's threshold."""
    return float(json.loads(CALIBRATION.read_text("utf-8"))["others"])
