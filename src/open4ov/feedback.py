"""What training asks of data construction: which topics to make more of, and which to make better (paper §3.2.2).

A feedback file is YAML, for people to read and correct: balance writes the labels that are scarce into it, the rapid
assessment the ones that the model fails; data construction reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from open4ov import yaml_file
from open4ov.errors import UserError
from open4ov.store import atomic


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Wish(_Strict):
    """One thing to be produced more, better or less; at least one of the four places says of what.

    `domain` and `ability` are label names, "L1" or "L1 ~ L2"; `topic` is a topic's path as samples carry it; `task` is
    `Sample.task`, or a question type. `weight`: `more` wants 1 + weight times the samples, `less` 1 / (1 + weight) of
    them. `better`: as many, but made anew: the ones there are wrong or too poor, and those in `samples` (ids) are not
    used again.
    """

    want: Literal["more", "better", "less"]
    domain: str | None = None
    ability: str | None = None
    topic: str | None = None
    task: str | None = None
    weight: float = Field(default=1.0, gt=0)
    reason: str = ""
    asked: int | None = Field(default=None, ge=0)
    failed: int | None = Field(default=None, ge=0)
    samples: list[str] = Field(default_factory=list)

    @property
    def place(self) -> tuple[str | None, str | None, str | None, str | None]:
        return self.domain, self.ability, self.topic, self.task


class Feedback(_Strict):
    """The contents of a feedback file. `source`: what wrote it; `labels`: the version of the label tree."""

    open4ov: Literal["feedback-1"] = "feedback-1"
    source: str = ""
    labels: str = ""
    wishes: list[Wish] = Field(default_factory=list[Wish])

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        said = {"open4ov": self.open4ov, **self.model_dump(exclude_defaults=True)}
        with atomic(path) as temporary:
            temporary.write_text(yaml.safe_dump(said, sort_keys=False, allow_unicode=True), encoding="utf-8")


def read(path: Path) -> Feedback:
    """Raises UserError, with file, line and key, for a file that is missing or broken, or a wish without a place."""
    data, lines = yaml_file.read(path)
    try:
        feedback = Feedback.model_validate(data)
    except ValidationError as error:
        faults: list[str] = []
        for item in error.errors():
            loc = item["loc"]
            known = next((loc[:depth] for depth in range(len(loc), 0, -1) if loc[:depth] in lines), ())
            line = f", line {lines[known]}" if known else ""
            faults.append(f"{path}{line}: {yaml_file.dotted(loc)}: {item['msg']}")
        raise UserError("\n".join(faults)) from None
    for number, wish in enumerate(feedback.wishes):
        if not any(wish.place):
            raise UserError(
                f"{path}: wishes.{number}: says of nothing what it wants; name a domain, ability, topic or task"
            )
    return feedback
