"""`sft.preference_set`: what the SFT-Preference set of stage 3 is made of (paper §3.2.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from open4ov.errors import nearest
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe

SHARES = {
    "text_only": 0.08,
    "unrelated_image": 0.15,
    "related_image": 0.15,
    "unrelated_dialogue": 0.14,
    "markdown": 0.1,
    "human": 0.08,
    "concise": 0.08,
    "usual": 0.08,
    "long_context": 0.08,
    "needle": 0.06,
}
"""The kinds of preference samples (`sft/preference/`) and the share of each."""
LONG = ("long_context", "needle")
REWRITTEN = ("markdown", "human", "concise")
"""The styles that a model may write, when `data.roles.preference` names one."""


class PreferenceSection(Section):
    """The SFT-Preference set."""

    shares: dict[str, float] = Field(
        default_factory=lambda: dict(SHARES),
        description="kind -> share of the set; a kind that is not named is not made; they sum to 1",
    )
    pictures: int = Field(default=6, ge=2, description="most pictures of a long conversation")
    hard: str | None = Field(
        default=None,
        min_length=1,
        description="an earlier run's directory, or a file of samples: what its RL failed altogether joins the set",
    )
    hard_share: float = Field(
        default=0.2, gt=0, le=1, description="most of the set that they may be, as a share of the other samples"
    )


def contradictions(preference: PreferenceSection) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    loc: Loc = ("sft", "preference_set", "shares")
    for kind, share in preference.shares.items():
        if kind not in SHARES:
            yield (*loc, kind), f"unknown kind '{kind}'{nearest(kind, SHARES)}"
        elif share < 0:
            yield (*loc, kind), f"{share} is negative"
    total = sum(preference.shares.values())
    if abs(total - 1) > 1e-6:
        yield loc, f"the shares sum to {total:g}; they must sum to 1"


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    section, loc = recipe.sft.preference_set, ("sft", "preference_set")
    if recipe.sft.schedule == "single_stage":
        reason, switch = "sft.schedule is single_stage, which has no SFT-Preference set", ("sft", "schedule")
        for field in sorted(section.model_fields_set):
            yield (*loc, field), reason, switch
        if "preference" in recipe.data.roles:
            yield ("data", "roles", "preference"), reason, switch
        return
    if section.hard is None and "hard_share" in section.model_fields_set:
        yield (*loc, "hard_share"), "sft.preference_set.hard names no earlier run", loc
    if "pictures" in section.model_fields_set and not any(section.shares.get(kind) for kind in LONG):
        yield (*loc, "pictures"), "no share of sft.preference_set.shares is for long conversations", (*loc, "shares")
    if "preference" in recipe.data.roles and not any(section.shares.get(kind) for kind in REWRITTEN):
        reason = "no share of sft.preference_set.shares is for a style that a model could write"
        yield ("data", "roles", "preference"), reason, (*loc, "shares")
