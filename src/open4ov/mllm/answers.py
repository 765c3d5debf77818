"""What each role of data construction must answer: one pydantic model a role.

The model is the contract: its JSON schema goes to the endpoint, and every answer, from whatever provider, is read by
it. To an endpoint all fields are required and unknown ones refused, as strict structured output wants.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def _all_required(schema: dict[str, Any]) -> None:
    """What an endpoint is told: every field is required, also those that the catalog may leave at their default."""
    schema["required"] = list(schema.get("properties", ()))
    for field in schema.get("properties", {}).values():
        field.pop("default", None)


class Answer(BaseModel):
    """What a role may say: these fields and no others."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_all_required)


class NewLabel(Answer):
    """An L2 label that a model proposes; domain labels say what they show and which ability L1 ids suit them."""

    name: str
    description: str
    things: list[str]
    abilities: list[str]


class Expansion(Answer):
    """L2 labels proposed under one L1 (paper §2.2.2)."""

    labels: list[NewLabel]


class Topics(Answer):
    """L3 topics of one (domain L2, ability L2) pair (paper §2.2.2)."""

    topics: list[str]


class Ranking(Answer):
    """L1 names of each axis, most relevant first, with `Others` as the boundary (paper §2.2.3).

    `description` says in a sentence or two what the image shows and can be asked about: fine matching embeds it.
    """

    description: str
    domain: list[str]
    ability: list[str]


class Density(Answer):
    """The four dimensions of the information density score, 0 to 1 each (paper §2.2.4)."""

    subjects: float = Field(ge=0, le=1)
    space: float = Field(ge=0, le=1)
    ocr: float = Field(ge=0, le=1)
    knowledge: float = Field(ge=0, le=1)


class Pair(Answer):
    """One question with its answer: `answer` is what a verifier compares, `response` the full assistant text.

    `type` is one of `data.question_types`; "" from the catalog, whose questions are as their corpus has them.
    """

    topic: str
    task: str
    type: Literal["", "open", "choice", "yes_no", "counting", "reading", "reasoning", "description"] = ""
    language: Literal["en", "zh"]
    question: str
    answer: str
    aliases: list[str]
    options: list[str] = Field(default_factory=list)
    response: str


class Pairs(Answer):
    """Question-answer pairs about one picture."""

    pairs: list[Pair]


class Judgement(Answer):
    """A judge's 0 or 1; None says that the judge cannot tell (an abstention, never an agreement)."""

    score: Literal[0, 1] | None
    reason: str


class Check(Answer):
    """One dimension of response verification. `score` is 1 (fails) to 5 (beyond doubt) by the prompt's anchors; None
    from the catalog, whose evidence has no degrees."""

    ok: bool
    score: int | None = Field(default=None, ge=1, le=5)
    reason: str


class Verification(Answer):
    """The five dimensions on which a response is verified (paper §2.2.4)."""

    accuracy: Check
    completeness: Check
    authenticity: Check
    relevance: Check
    plausibility: Check


class FigureQuestion(Answer):
    """One question about a document's figure: `answer` is what a verifier compares."""

    task: str
    question: str
    answer: str
    aliases: list[str]
    response: str


class FigureQuestions(Answer):
    """What the role `documents` asks about a figure (paper §4.1.1)."""

    questions: list[FigureQuestion]


class Read(Answer):
    """An answer with or without the picture; None: it cannot be known."""

    answer: str | None
    reason: str


class Screened(Answer):
    """What a second look at an extracted question finds broken (paper §4.1.1)."""

    ocr: bool
    order: bool
    self_talk: bool
    mismatch: bool
    reason: str


class Grade(Answer):
    """Whether a response to an evaluation's question is right; None: the judge cannot tell (`open4ov eval`)."""

    score: Literal[0, 1] | None
    reason: str


class Rubric(Answer):
    """How far a response follows each part of an instruction, 0 to 1 (`open4ov eval`)."""

    scores: list[float]
    reason: str


class Preference(Answer):
    """Which of two answers is better."""

    choice: Literal["first", "second", "tie"]
    reason: str
