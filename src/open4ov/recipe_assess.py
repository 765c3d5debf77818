"""`admission.assess`: the rapid assessment of new data (paper §3.2.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe

LOC: Loc = ("admission", "assess")


class AssessSection(Section):
    """A short training of the base on the new data, and whether it is better for it (docs/training.md)."""

    tokens: int = Field(default=0, ge=0, description="training tokens of one short SFT; 0 turns the assessment off")
    questions: int = Field(default=300, ge=20, description="held-out questions of the vertical a round")
    general_questions: int = Field(default=300, ge=20, description="held-out questions of the general set a round")
    probe: str | None = Field(
        default=None,
        min_length=1,
        description="a trusted set with the vertical's questions; split `val` of the data, or the corpus's, when empty",
    )
    gain: float = Field(default=0.05, ge=0, lt=1, description="the vertical's share of right answers must rise by more")
    margin: float = Field(
        default=0.05, gt=0, lt=1, description="the general share of right answers may fall by less than this"
    )
    language_margin: float = Field(
        default=0.05, gt=0, lt=1, description="the share of answers in the question's language may fall by less"
    )
    false_admit: float = Field(default=0.05, gt=0, lt=0.5, description="most probable error: admitted, yet not so good")
    false_reject: float = Field(
        default=0.05, gt=0, lt=0.5, description="most probable error: rejected, yet good enough"
    )
    rounds: int = Field(
        default=1, ge=1, le=20, description="most rounds: each with new questions, which an undecided one asks for"
    )
    train_anew: bool = Field(default=True, description="each round trains with a seed of its own; else only asks more")
    own_questions: int = Field(
        default=96, ge=0, description="questions of the new data itself, to see whether it contradicts itself"
    )
    on_reject: Literal["stop", "go_on"] = Field(default="stop", description="what a run does with rejected data")
    on_undecided: Literal["stop", "go_on"] = Field(default="go_on", description="what it does when the cap is reached")


def contradictions(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    section = recipe.admission.assess
    pack = recipe.sft.pack_of("knowledge")
    if 0 < section.tokens < pack:
        key = "sft.knowledge.pack_tokens" if recipe.sft.knowledge.pack_tokens else "sft.pack_tokens"
        yield (*LOC, "tokens"), f"{section.tokens} is less than one pack ({key} = {pack})"


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    section = recipe.admission.assess
    if section.tokens == 0:
        for field in sorted(section.model_fields_set - {"tokens"}):
            yield (*LOC, field), "admission.assess.tokens is 0", (*LOC, "tokens")
    elif section.rounds == 1 and "train_anew" in section.model_fields_set:
        yield (*LOC, "train_anew"), "admission.assess.rounds is 1", (*LOC, "rounds")
