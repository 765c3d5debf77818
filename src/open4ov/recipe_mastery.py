"""`admission.mastery`: grading by rollouts (paper §3.2.2, rejection sampling; §3.2.3, difficulty)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from open4ov.recipe_section import Section
from open4ov.recipe_sft import STAGES
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe


class MasteryWeights(Section):
    """How much of each level is drawn when samples are resampled for the next iteration (paper §3.2.2: less of what is
    mastered, more of the rest)."""

    mastered: float = Field(default=0.25, ge=0)
    partial: float = Field(default=1.0, ge=0)
    unmastered: float = Field(default=1.0, ge=0)
    ungraded: float = Field(default=1.0, ge=0, description="samples without a grade")


class MasterySection(Section):
    """Rejection sampling: how often the current model answers a sample rightly."""

    rollouts: int = Field(default=4, ge=0, description="responses a sample; 0 turns grading off")
    most_rollouts: int | None = Field(
        default=None, ge=1, description="where undecided, ask for `rollouts` more until so many; no more when empty"
    )
    confidence: float = Field(
        default=0.9, gt=0.5, lt=1, description="probability of its level from which on a sample is decided"
    )
    samples: int = Field(
        default=256, ge=1, description="most samples rolled out a stage; the others take their topic's pass rate"
    )
    mastered_at: float = Field(
        default=0.9, gt=0, lt=1, description="pass rate from which on a sample is mastered; of few rollouts: all right"
    )
    unmastered_at: float = Field(
        default=0.1, gt=0, lt=1, description="pass rate up to which it is unmastered; of few rollouts: none right"
    )
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=64, ge=1, description="longest response, tokens; one that is cut off is wrong")
    boxed: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="ask for the answer in \\boxed{}; auto: where the sample's own response says more than its answer",
    )
    open_answers: bool = Field(
        default=False, description="grade samples without a short answer too: sft.verifier gets their own response"
    )
    verifier_seconds: float = Field(
        default=10.0, gt=0, le=3600, description="for one response; a verifier that takes longer gives no verdict"
    )
    mastered_again: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the mastered samples asked again at each later grading, in turn; the others keep theirs",
    )
    weights: MasteryWeights = Field(default_factory=MasteryWeights)


def contradictions(mastery: MasterySection) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    loc = ("admission", "mastery")
    if mastery.unmastered_at >= mastery.mastered_at:
        message = f"{mastery.unmastered_at} must be below admission.mastery.mastered_at = {mastery.mastered_at}"
        yield (*loc, "unmastered_at"), message
    if mastery.most_rollouts is not None and mastery.most_rollouts <= mastery.rollouts:
        message = f"{mastery.most_rollouts} must be above admission.mastery.rollouts = {mastery.rollouts}, or empty"
        yield (*loc, "most_rollouts"), message
    weights = mastery.weights
    if not weights.mastered + weights.partial + weights.unmastered > 0:
        yield (*loc, "weights"), "the weights of all levels are zero: nothing would be drawn; one must be above"


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    mastery, loc = recipe.admission.mastery, ("admission", "mastery")
    asks = recipe.admission.assess.tokens > 0 or recipe.admission.ration.on or recipe.sft.ability.blend == "deficit"
    written = mastery.model_fields_set - ({"verifier_seconds"} if asks else set())
    if recipe.sft.schedule != "curriculum":
        for field in sorted(written):
            yield (*loc, field), f"sft.schedule is {recipe.sft.schedule}, which does not grade", ("sft", "schedule")
        return
    if mastery.rollouts == 0:
        for field in sorted(written - {"rollouts"}):
            yield (*loc, field), "admission.mastery.rollouts is 0", (*loc, "rollouts")
        if "difficulty_noise" in recipe.sft.model_fields_set:
            yield ("sft", "difficulty_noise"), "admission.mastery.rollouts is 0", (*loc, "rollouts")
        for name in STAGES:
            if "iterations" in getattr(recipe.sft, name).model_fields_set:
                yield ("sft", name, "iterations"), "admission.mastery.rollouts is 0", (*loc, "rollouts")
        return
    if mastery.most_rollouts is None and "confidence" in mastery.model_fields_set:
        yield (
            (*loc, "confidence"),
            "admission.mastery.most_rollouts is empty: no more is asked",
            (*loc, "most_rollouts"),
        )
    if all(getattr(recipe.sft, name).iterations == 1 for name in STAGES):
        for field in sorted({"weights", "mastered_again"} & mastery.model_fields_set):
            yield (*loc, field), "no stage of sft has more than one iteration", ("sft",)
