"""What a round was weak in, by label: the contents of weaknesses.json, all that the next plan is made from.

Shares of right answers are of development questions; a place's `shortfall` is what is missing to 1, an ability's `drop`
what the base had before. `mean`, `low` and `high` are the posterior's (`weaknesses.py`), which draws places of few
questions towards the mean of all; `loss` is the expectation of its positive part, and a hundredth.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from open4ov.errors import UserError
from open4ov.feedback import Wish
from open4ov.loop.places import Level, Place
from open4ov.run_dir import read_json


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Share(Strict):
    """A share of right answers, with its 95 % interval."""

    questions: int
    right: float
    low: float
    high: float


class Change(Strict):
    """Base and round's model on the same questions; `drop` is before - after with its 95 % interval."""

    questions: int
    before: float
    after: float
    drop: float
    low: float
    high: float


class Belief(Strict):
    mean: float
    low: float
    high: float
    loss: float


class PlaceFound(Strict):
    """`made`: the share of the round's samples. Without questions there is no `right` and no `shortfall`."""

    domain: str
    ability: str | None = None
    topic: str | None = None
    made: float
    questions: int
    right: Share | None = None
    shortfall: Belief | None = None

    @property
    def place(self) -> Place:
        return Place(self.domain, self.ability, self.topic)


class AbilityFound(Strict):
    """`size`: the ability's share of SFT-Ability. Without questions nothing is known of its drop."""

    ability: str
    size: float
    questions: int
    before: float | None = None
    after: float | None = None
    drop: Belief | None = None


class Found(Strict):
    """`on`: where the questions are from, in words; `pairs`: question-answer pairs that were asked for; `ratio`: what
    rationing found; `better`: what the rapid assessment wants made anew; `failed`: tasks that RL failed altogether."""

    round: int
    on: dict[str, str]
    level: Level
    vertical: Share
    general: Change | None = None
    places: list[PlaceFound]
    abilities: list[AbilityFound] = Field(default_factory=list[AbilityFound])
    pairs: int
    ratio: float | None = None
    better: list[Wish] = Field(default_factory=list[Wish])
    failed: int = 0


def read(path: Path) -> Found:
    """Raises UserError for a file that is missing or none of these."""
    try:
        return Found.model_validate(read_json(path))
    except ValidationError:
        raise UserError(f"{path}: missing or damaged; delete its folder, and the same command makes it anew") from None
