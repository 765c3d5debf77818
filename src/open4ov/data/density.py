"""Information density score and the QA budget of an image (paper §2.2.4).

IDS = Σ_d w_d·s_d over subject diversity, spatial relations, OCR text and world knowledge, w normalised to sum 1, each
s in [0, 1]; budget = round(min_pairs + IDS·(max_pairs − min_pairs)): an upper limit, more for rich images and fewer
for poor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from open4ov.errors import UserError
from open4ov.mllm.answers import Density
from open4ov.mllm.ask import Picture, Prompt, Request
from open4ov.recipe import DataSection

DIMENSIONS = ("subjects", "space", "ocr", "knowledge")


def weights(section: DataSection) -> dict[str, float]:
    """The recipe's weights, normalised to sum 1; a dimension left out weighs nothing."""
    given = {name: section.density_weights.get(name, 0.0) for name in DIMENSIONS}
    total = sum(given.values())
    if not total > 0:
        raise UserError(f"data.density_weights: none of {', '.join(DIMENSIONS)} weighs more than 0")
    return {name: weight / total for name, weight in given.items()}


def request(picture: Picture, annotation: str) -> Request:
    """Asks for the four scores of a picture."""
    return Request("density", Prompt("density", {"annotation": annotation}), (picture,), Density)


def fuse(scores: Mapping[str, float], weight: Mapping[str, float]) -> float:
    """IDS in [0, 1] from four scores in [0, 1] and normalised weights."""
    return sum(weight[name] * scores[name] for name in DIMENSIONS)


def budget(ids: float, min_pairs: int, max_pairs: int) -> int:
    """QA pairs for an image; halves round up, so that the budget never falls as IDS grows."""
    if max_pairs < min_pairs:
        raise UserError(f"data.max_pairs ({max_pairs}) is below data.min_pairs ({min_pairs})")
    return math.floor(min_pairs + ids * (max_pairs - min_pairs) + 0.5)
