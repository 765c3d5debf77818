"""`admission`: what may be trained on, and how much of it (paper §3.2.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from open4ov import recipe_assess, recipe_balance, recipe_mastery, recipe_ration
from open4ov.recipe_assess import AssessSection
from open4ov.recipe_balance import BalanceSection
from open4ov.recipe_mastery import MasterySection
from open4ov.recipe_ration import RationSection
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe


class AdmissionSection(Section):
    """Data admission (paper §3.2.2)."""

    balance: BalanceSection = Field(default_factory=BalanceSection)
    mastery: MasterySection = Field(default_factory=MasterySection)
    assess: AssessSection = Field(default_factory=AssessSection)
    ration: RationSection = Field(default_factory=RationSection)


def contradictions(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    yield from recipe_balance.contradictions(recipe.admission.balance)
    yield from recipe_assess.contradictions(recipe)
    yield from recipe_mastery.contradictions(recipe.admission.mastery)
    yield from recipe_ration.contradictions(recipe)


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    yield from recipe_balance.idle(recipe.admission.balance)
    yield from recipe_mastery.idle(recipe)
    yield from recipe_ration.idle(recipe)
    yield from recipe_assess.idle(recipe)
