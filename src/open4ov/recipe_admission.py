"""`admission`: what may be trained on, and how much of it (paper §3.2.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from open4ov.recipe_blend import ONE_STAGE
from open4ov.recipe_section import Section
from open4ov.recipe_sft import STAGES
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe


class MasterySection(Section):
    """Rejection sampling: how often the current model answers a sample rightly."""

    rollouts: int = Field(default=4, ge=0, description="responses a sample; 0 turns grading off")
    samples: int = Field(
        default=256, ge=1, description="most samples rolled out a stage; the others take their topic's pass rate"
    )


class AdmissionSection(Section):
    """Data admission (paper §3.2.2)."""

    mastery: MasterySection = Field(default_factory=MasterySection)


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    mastery, loc = recipe.admission.mastery, ("admission", "mastery")
    if recipe.sft.schedule in ONE_STAGE:
        for field in sorted(mastery.model_fields_set):
            yield (*loc, field), f"sft.schedule is {recipe.sft.schedule}, which does not grade", ("sft", "schedule")
    elif mastery.rollouts == 0:
        for field in sorted(mastery.model_fields_set - {"rollouts"}):
            yield (*loc, field), "admission.mastery.rollouts is 0", (*loc, "rollouts")
        if "difficulty_noise" in recipe.sft.model_fields_set:
            yield ("sft", "difficulty_noise"), "admission.mastery.rollouts is 0", (*loc, "rollouts")
        for name in STAGES:
            if "iterations" in getattr(recipe.sft, name).model_fields_set:
                yield ("sft", name, "iterations"), "admission.mastery.rollouts is 0", (*loc, "rollouts")
