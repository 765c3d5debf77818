"""Labelled pairs of responses, same way or different way, and the threshold of an encoder that tells them apart best.

The pairs ship in `assets/approaches` (its README says what a way is). The threshold is set on one half of the
questions; how well it does is told by the other half, which it has not seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from open4ov.assets import ROOT

FOLDER = ROOT / "approaches"
Encoder = Callable[[list[str]], Tensor]
"""n texts -> unit rows [n, D]"""


@dataclass(frozen=True)
class Pair:
    """Two responses to one question; `same`: whether they take the same way to the answer."""

    left: str
    right: str
    same: bool
    family: str
    language: str
    half: str


@dataclass(frozen=True)
class Calibration:
    """`threshold`: the cosine distance above which two responses differ; `fitted` and `held_out`: balanced accuracies
    on the pairs it was set on, and on the others."""

    threshold: float
    fitted: float
    held_out: float
    pairs: int

    def figures(self) -> dict[str, float]:
        return {
            "threshold": round(self.threshold, 6),
            "fitted": round(self.fitted, 4),
            "held_out": round(self.held_out, 4),
            "pairs": self.pairs,
        }


@lru_cache(maxsize=1)
def pairs() -> list[Pair]:
    """All pairs, always in the same order: of each question as many of the same way as of different ways."""
    found: dict[str, Any] = json.loads((FOLDER / "approaches.json").read_text("utf-8"))
    return [pair for family in found["families"] for pair in _of_family(family)]


def files() -> list[Path]:
    """What the pairs are read from."""
    return [FOLDER / "approaches.json"]


def distances(encoder: Encoder, chosen: Sequence[Pair]) -> list[float]:
    """The cosine distance of each pair."""
    texts = list(dict.fromkeys(text for pair in chosen for text in (pair.left, pair.right)))
    rows = dict(zip(texts, encoder(texts).double(), strict=True))
    return [float(1 - rows[pair.left] @ rows[pair.right]) for pair in chosen]


def calibrate(encoder: Encoder) -> Calibration:
    """The threshold of an encoder by the labelled pairs."""
    fit = [pair for pair in pairs() if pair.half == "calibration"]
    held = [pair for pair in pairs() if pair.half == "held_out"]
    near, far = distances(encoder, fit), distances(encoder, held)
    found = threshold(near, [pair.same for pair in fit])
    return Calibration(
        found,
        balanced_accuracy(near, [pair.same for pair in fit], found),
        balanced_accuracy(far, [pair.same for pair in held], found),
        len(fit) + len(held),
    )


def balanced_accuracy(found: Sequence[float], same: Sequence[bool], limit: float) -> float:
    """The mean of two shares: same-way pairs within the limit, and different-way pairs beyond it."""
    near = [distance <= limit for distance, alike in zip(found, same, strict=True) if alike]
    far = [distance > limit for distance, alike in zip(found, same, strict=True) if not alike]
    return (sum(near) / len(near) + sum(far) / len(far)) / 2


def threshold(found: Sequence[float], same: Sequence[bool]) -> float:
    """The distance with the largest balanced accuracy: the middle of the widest gap among the best ones.

    Raises ValueError where one of the two kinds is missing, or all distances are equal.
    """
    values = sorted(set(found))
    if len(values) < 2 or len(set(same)) < 2:
        raise ValueError("a threshold needs pairs of both kinds, and distances that differ")
    gaps = list(pairwise(values))
    scores = [balanced_accuracy(found, same, (low + high) / 2) for low, high in gaps]
    best = max(scores)
    low, high = max(
        (gap for gap, score in zip(gaps, scores, strict=True) if score >= best - 1e-12), key=lambda gap: gap[1] - gap[0]
    )
    return (low + high) / 2


def _of_family(family: dict[str, Any]) -> Iterator[Pair]:
    ways: list[list[str]] = list(family["approaches"].values())

    def pair(left: str, right: str, same: bool) -> Pair:
        return Pair(left, right, same, family["family"], family["language"], family["half"])

    for worded in ways:
        for left, right in combinations(worded, 2):
            yield pair(left, right, True)
    for one, other in combinations(ways, 2):
        for left, right in zip(one, other, strict=True):
            yield pair(left, right, False)
