"""Information density score and the QA budget of an image (paper §2.2.4).

IDS = Σ_d w_d·s_d over subject diversity, spatial relations, OCR text and world knowledge, w normalised to sum 1, each
s in [0, 1] by the anchored rubric of prompts/density.jinja. The weights are those of the scenario: the image's first
domain that `data.density_scenarios` names, else `data.density_weights`.

The budget is an upper limit, more for rich images and fewer for poor. Without a total it is
round(min_pairs + IDS·(max_pairs − min_pairs)); with one, `allocate` shares it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from open4ov.data.labels import LabelTree
from open4ov.errors import UserError, nearest
from open4ov.mllm.answers import Density
from open4ov.mllm.ask import Picture, Prompt, Request
from open4ov.recipe import DataSection

DIMENSIONS = ("subjects", "space", "ocr", "knowledge")


def weights(section: DataSection, domains: Sequence[str] = ()) -> dict[str, float]:
    """The recipe's weights for an image of these domains (best first), normalised to sum 1; a dimension left out
    weighs nothing."""
    scenario = next((name for name in domains if name in section.density_scenarios), None)
    chosen = section.density_weights if scenario is None else section.density_scenarios[scenario]
    given = {name: chosen.get(name, 0.0) for name in DIMENSIONS}
    total = sum(given.values())
    if not total > 0:
        key = "data.density_weights" if scenario is None else f"data.density_scenarios.{scenario}"
        raise UserError(f"{key}: none of {', '.join(DIMENSIONS)} weighs more than 0")
    return {name: weight / total for name, weight in given.items()}


def check_scenarios(section: DataSection, tree: LabelTree) -> None:
    """Raises `UserError` for a scenario that is no domain of the tree."""
    for name in section.density_scenarios:
        if name not in tree.names("domain"):
            raise UserError(
                f"data.density_scenarios.{name}: no domain L1 is called so{nearest(name, tree.names('domain'))}"
            )


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


def leaning(ids: float, min_pairs: int, max_pairs: int, factor: float) -> int:
    """`budget` for an image of which `factor` times as much is wished (wishes.py), within the same bounds."""
    least, most = min(min_pairs, max_pairs), max_pairs
    return math.floor(min(most, max(least, (min_pairs + ids * (max_pairs - min_pairs)) * factor)) + 0.5)


def check_total(images: int, min_pairs: int, max_pairs: int, total: int) -> None:
    """Raises `UserError` for a total that so many images cannot have within the bounds."""
    least, most = min_pairs * images, max_pairs * images
    if not least <= total <= most:
        raise UserError(
            f"data.total_pairs: {total} pairs cannot be had of {images} images with {min_pairs} to {max_pairs} each "
            f"({least} to {most}); change data.total_pairs, data.min_pairs or data.max_pairs"
        )


def allocate(ids: Sequence[float], min_pairs: int, max_pairs: int, total: int) -> list[int]:
    """Budgets that sum to `total`, each between the bounds, never falling as IDS grows.

    Everyone has `min_pairs`; each further pair goes to the image with the highest IDS / (2·further pairs it has + 1):
    Webster's (Sainte-Laguë's) method with bounds, which keeps further pairs as nearly proportional to IDS as whole
    numbers can be. Images of IDS 0 get further pairs after all others. Ties go to the higher IDS, then the fewer
    pairs, then the earlier image. Raises `UserError` for a total that the bounds cannot give.
    """
    if max_pairs < min_pairs:
        raise UserError(f"data.max_pairs ({max_pairs}) is below data.min_pairs ({min_pairs})")
    check_total(len(ids), min_pairs, max_pairs, total)
    least = min_pairs * len(ids)
    scores, steps = np.asarray(ids, dtype=np.float64), max_pairs - min_pairs
    further = total - least
    if not further:
        return [min_pairs] * len(ids)
    # Every further pair that any image could have, in the order in which they are given out.
    image = np.repeat(np.arange(len(ids)), steps)
    number = np.tile(np.arange(steps), len(ids))
    value = scores[image] / (2 * number + 1)
    order = np.lexsort((image, number, -scores[image], -value))[:further]
    return (min_pairs + np.bincount(image[order], minlength=len(ids))).tolist()
