"""`sft.ability`: what stage 2 mends, and how much of each ability it takes for that (paper §3.2.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe

LOC: Loc = ("sft", "ability")
ONE_STAGE = ("random_mix", "single_stage")
"""Schedules that are baselines: one stage, nothing graded or measured"""


def _known(value: object) -> object:
    """One message for a value that is none of the three forms, instead of one for each form."""
    shares = cast("dict[object, object]", value) if isinstance(value, dict) else None
    if shares and all(isinstance(share, int | float) and not isinstance(share, bool) for share in shares.values()):
        return shares
    if value not in ("fixed", "deficit"):
        raise PydanticCustomError("blend", "fixed, deficit, or `ability: share` lines with a number each")
    return value


class BlendSection(Section):
    """The blend of abilities in stage 2."""

    blend: Annotated[Literal["fixed", "deficit"] | dict[str, float], BeforeValidator(_known)] = Field(
        default="fixed",
        description="fixed: all tasks alike; deficit: by how much of each ability stage 1 has lost, as measured; or "
        "ability -> share of the set's tokens",
    )
    blend_floor: float = Field(
        default=0.3, ge=0, le=1, description="deficit: share of the tokens that all abilities have in equal parts"
    )
    blend_epochs: float = Field(
        default=4.0, gt=0, description="most times that an ability's samples are gone through; the rest goes to others"
    )
    probe: int = Field(
        default=400, ge=1, description="deficit: most questions of the set's split `val` that base and stage 1 answer"
    )


def contradictions(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    ability = recipe.sft.ability
    if isinstance(ability.blend, dict):
        loc = (*LOC, "blend")
        for name, share in ability.blend.items():
            if share < 0:
                yield (*loc, name), f"{share:g} is negative"
        total = sum(ability.blend.values())
        if abs(total - 1) > 1e-6:
            yield loc, f"the shares sum to {total:g}; make them sum to 1"
        return
    drawn = recipe.images.general.startswith("corpus:")  # other sets may come with a split of their own
    if ability.blend == "deficit" and recipe.sft.schedule not in ONE_STAGE and drawn and not recipe.sft.held_out:
        reason = "deficit asks questions that nothing is trained on, and none are kept apart; set sft.held_out"
        yield (*LOC, "blend"), reason


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that were written but that nothing reads: (place, reason, the option that makes it so)."""
    ability, written = recipe.sft.ability, recipe.sft.ability.model_fields_set
    if recipe.sft.schedule in ONE_STAGE:
        for field in sorted({"blend", "blend_floor", "blend_epochs", "probe"} & written):
            reason = f"sft.schedule is {recipe.sft.schedule}, which has no stage 2"
            yield (*LOC, field), reason, ("sft", "schedule")
        return
    switch = (*LOC, "blend")
    if ability.blend != "deficit":
        for field in sorted({"blend_floor", "probe"} & written):
            yield (*LOC, field), "sft.ability.blend is not deficit", switch
    if ability.blend == "fixed" and "blend_epochs" in written:
        yield (*LOC, "blend_epochs"), "sft.ability.blend is fixed", switch
