"""`loop`: what `open4ov run --iterations` measures after each round, and how far the next plan may lean on it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from open4ov.recipe_section import Section

LEANING = ("floor", "learnable", "margin", "step")
"""Keys that say how far a plan leans on what was measured"""


class LoopSection(Section):
    """The loop of several rounds. Nothing reads it in a run without rounds."""

    start: Literal["base", "last"] = Field(
        default="base",
        description="what a round is trained from: the recipe's model, so that a round replaces the one before it; or "
        "the last model of the round before, so that each adds to it",
    )
    questions: int = Field(
        default=300, ge=20, description="development questions about the vertical that each round's model is asked"
    )
    general_questions: int = Field(
        default=300, ge=20, description="general development questions that the base and each round's model are asked"
    )
    probe: str | None = Field(
        default=None,
        min_length=1,
        description="development questions about the vertical that somebody trusts (a file or folder of samples); the "
        "split val of the corpus or of the run's own data when empty",
    )
    floor: float = Field(
        default=0.3, ge=0, le=1, description="part of the pairs, and of stage 2's tokens, shared out as without a plan"
    )
    learnable: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of right answers from which on a place's pairs follow all that it lacks; below it in "
        "proportion, so that a place where nothing is right gets what falls to it. 0: what is lacking counts alone",
    )
    margin: float = Field(
        default=0.02, ge=0, le=1, description="drop of the general development score that no ratio is changed for"
    )
    step: float = Field(
        default=0.1, ge=0, le=0.5, description="most that a plan raises or lowers stage 1's share of replay"
    )
