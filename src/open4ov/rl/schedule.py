"""Which advantage a step uses (paper §4.2.3): Pass@k early on, so that the model explores; the diversity-weighted
Pass@1 after it. The length reward is there throughout.

Pass@k ends with the share of steps that the recipe gives it, or before, when the rollouts' pass@k rises no more. It
does not come back. All this is read off the curve, so that a resumed run needs nothing else to go on alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from open4ov.recipe import RlSection

Phase = Literal["pass_at_k", "diversity"]


def phase(section: RlSection, curve: Sequence[Mapping[str, Any]]) -> Phase:
    """The phase of the step that comes after those of the curve (`phase` and `pass_at_k` are read)."""
    if len(curve) >= round(section.pass_k_share * section.steps):
        return "diversity"
    if curve and curve[-1]["phase"] == "diversity":
        return "diversity"
    plateau = section.plateau
    stalled = flat([point["pass_at_k"] for point in curve], plateau.steps, plateau.rise)
    return "diversity" if stalled else "pass_at_k"


def flat(values: Sequence[float], steps: int, rise: float) -> bool:
    """Whether the mean of the last `steps` values is at most `rise` above that of as many before them. One step's
    pass@k is of a few prompts only, and other prompts in each: means of several are compared. False without enough
    values, or with `steps` 0."""
    if not steps or len(values) < 2 * steps:
        return False
    return round(fmean(values[-steps:]) - fmean(values[-2 * steps : -steps]), 9) <= rise
