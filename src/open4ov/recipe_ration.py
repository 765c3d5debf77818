"""`admission.ration`: how much of the new data the next training cycle takes (paper §3.2.2, new data rationing)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe

HERE = ("admission", "ration")


class RationSection(Section):
    """The search for the ratio of new data to a stable version: short trainings, the better half of which goes on."""

    ratios: list[float | dict[str, float]] = Field(
        default_factory=list[float | dict[str, float]],
        description="candidates: the share of training tokens from new data, or a share for each new set by its name",
    )
    trials: int = Field(default=0, ge=0, description="in place of `ratios`: so many, evenly from lowest to highest")
    lowest: float = Field(default=0.0, ge=0, le=1, description="share of training tokens")
    highest: float = Field(default=0.5, ge=0, le=1, description="share of training tokens")
    tokens: int = Field(default=20_000, ge=1, description="training tokens of a candidate in the first round")
    rungs: int = Field(default=3, ge=1, description="rounds at most; each doubles the tokens of those that are left")
    batch: int = Field(default=2000, ge=1, description="samples of the small batch, of the stable and of each new set")
    questions: int = Field(
        default=200, ge=2, description="held-out questions of the vertical (new) and of the general (stable), each"
    )
    objective: Literal["constrained", "weighted"] = Field(
        default="constrained",
        description="constrained: most vertical gain, general held within the margin; weighted: a sum of the two gains",
    )
    margin: float = Field(default=0.02, ge=0, le=1, description="drop of the general score below the base's for free")
    penalty: float = Field(
        default=3.0, gt=0, description="vertical gain that a drop beyond the margin costs, as factor"
    )
    weight: float = Field(default=0.5, ge=0, le=1, description="of the vertical gain in the weighted sum")
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="that no candidate of the search is wrongly stopped as clearly worse"
    )

    @property
    def on(self) -> bool:
        """Whether there is a search."""
        return bool(self.ratios or self.trials)

    def candidates(self) -> list[float | dict[str, float]]:
        """What is tried, as written, or evenly spaced."""
        if self.ratios:
            return self.ratios
        step = (self.highest - self.lowest) / max(self.trials - 1, 1)
        return [round(self.lowest + place * step, 6) for place in range(self.trials)]


def contradictions(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    ration = recipe.admission.ration
    if ration.ratios and ration.trials:
        yield (*HERE, "trials"), "admission.ration.ratios says what is tried; write one of the two"
    if ration.trials == 1 or len(ration.ratios) == 1:
        yield (
            (*HERE, "ratios" if ration.ratios else "trials"),
            "one candidate leaves nothing to choose; give two or more",
        )
    if ration.trials and ration.lowest >= ration.highest:
        yield (*HERE, "lowest"), f"{ration.lowest:g} must be below admission.ration.highest = {ration.highest:g}"
    seen: list[float | dict[str, float]] = []
    for place, ratio in enumerate(ration.ratios):
        loc = (*HERE, "ratios", place)
        shares = ratio if isinstance(ratio, dict) else {"": ratio}
        if not shares or not all(math.isfinite(share) and 0 <= share <= 1 for share in shares.values()):
            yield loc, f"{ratio} is no share of the training tokens; use values from 0 to 1"
        elif sum(shares.values()) > 1 + 1e-9:
            yield loc, f"the shares of the new sets sum to {sum(shares.values()):g}; at most 1 can be shared out"
        elif ratio in seen:
            yield loc, f"{ratio} is there already; the candidates must differ"
        seen.append(ratio)
    if not ration.on:
        return
    pack = recipe.sft.pack_of("knowledge")
    if ration.tokens < pack:
        key = "sft.knowledge.pack_tokens" if recipe.sft.knowledge.pack_tokens else "sft.pack_tokens"
        yield (*HERE, "tokens"), f"{ration.tokens} is less than one pack ({key} = {pack})"


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    ration = recipe.admission.ration
    written = ration.model_fields_set
    if not ration.on:
        for field in sorted(written - {"ratios", "trials"}):
            yield (*HERE, field), "admission.ration has no ratios and no trials", (*HERE, "trials")
        return
    if ration.ratios:
        for field in sorted(written & {"lowest", "highest"}):
            yield (*HERE, field), "admission.ration.ratios says what is tried", (*HERE, "ratios")
    if "replay" in recipe.sft.knowledge.model_fields_set:
        switch = (*HERE, "ratios" if ration.ratios else "trials")
        yield ("sft", "knowledge", "replay"), "admission.ration finds it (1 - ratio)", switch
    unread = {"margin", "penalty"} if ration.objective == "weighted" else {"weight"}
    for field in sorted(written & unread):
        yield (*HERE, field), f"admission.ration.objective is {ration.objective}", (*HERE, "objective")
    if ration.rungs == 1 and "confidence" in written:
        yield (*HERE, "confidence"), "admission.ration.rungs is 1, and nothing is stopped early", (*HERE, "rungs")
