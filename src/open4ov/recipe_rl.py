"""`rl.filter`: which prompts online RL leaves out (paper §4.1.1)."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc


class RlFilterSection(Section):
    """Rejection sampling of the prompts: what the model always or never answers rightly teaches nothing."""

    rollouts: int = Field(
        default=0, ge=0, description="responses to each candidate by the model that RL begins with; 0: no filter"
    )
    candidates: float = Field(
        default=2.0, ge=1, description="candidate prompts, as a multiple of those that RL trains on (steps × prompts)"
    )


def contradictions(section: RlFilterSection) -> Iterator[tuple[Loc, str]]:
    """A single response is always or never right."""
    if section.rollouts == 1:
        yield ("rl", "filter", "rollouts"), "1 response is always right or always wrong; use 2 or more, or 0 for none"


def idle(section: RlFilterSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    if section.rollouts == 0 and "candidates" in section.model_fields_set:
        yield ("rl", "filter", "candidates"), "rl.filter.rollouts is 0", ("rl", "filter", "rollouts")
