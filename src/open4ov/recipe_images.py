"""`images`: where the pictures come from, and what their annotations are asked (paper §3.1)."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

Language = Literal["en", "zh"]
CORPUS = "corpus:"


class QuestionSection(Section):
    """A question that every annotated picture of a folder is asked, with the answer out of its annotation."""

    task: str = Field(min_length=1, description="what it exercises; ability labels know it by the tag task:NAME")
    ask: dict[Language, list[str]] = Field(
        min_length=1, description="language -> wordings; each picture is asked in one of them"
    )
    answer: str | dict[Language, str] = Field(description="key of the annotation that holds the answer")
    aliases: str | dict[Language, str] | None = Field(
        default=None, description="key that holds other right answers: a text or a list"
    )
    response: str | dict[Language, str] | None = Field(
        default=None,
        description="what is responded, with {KEY} for what the annotation has there; else the answer",
    )
    rule: Literal["exact", "sentence", "verbatim", "literal"] = Field(
        default="exact", description="how an answer is scored (docs/evaluation.md); sentence: token F1 of 0.7"
    )

    def key(self, part: Literal["answer", "aliases"], language: Language) -> str | None:
        """The annotation's key that holds this part in a language."""
        held = self.answer if part == "answer" else self.aliases
        return held.get(language) if isinstance(held, dict) else held

    def said(self, language: Language) -> str | None:
        """The response's pattern in a language."""
        return self.response.get(language) if isinstance(self.response, dict) else self.response


class ImagesSection(Section):
    """Where the pictures come from (paper §3.1)."""

    vertical: str = Field(
        default="corpus:in_car",
        min_length=1,
        description="`corpus:NAME` or a folder of images (with NAME.json annotations)",
    )
    title: str | None = Field(
        default=None, min_length=1, description="what a folder's vertical is called in tables; its name when empty"
    )
    questions: list[QuestionSection] = Field(
        default_factory=list[QuestionSection],
        description="what a folder's annotations are asked, beside the `qa` that they bring",
    )
    per_symbol: int = Field(
        default=12, ge=1, description="renderings of each vertical symbol, when a corpus draws them"
    )
    general: str = Field(
        default="corpus:general", min_length=1, description="`corpus:general`, or a folder, for the SFT-Ability set"
    )
    general_count: int = Field(default=4000, ge=0, description="how many general pictures, or questions without one")
    general_questions: int = Field(default=1, ge=1, description="most questions about a picture that a corpus draws")
    max_pixels: int = Field(
        default=40_000_000, ge=1, le=170_000_000, description="larger images are refused and listed"
    )

    @property
    def own(self) -> bool:
        """Whether the vertical is a folder of the user's, not a corpus that draws it."""
        return not self.vertical.startswith(CORPUS)

    @property
    def called(self) -> str:
        """What a folder's vertical is called in tables."""
        return self.title or Path(self.vertical).resolve().name or "vertical"


def contradictions(images: ImagesSection) -> Iterator[tuple[Loc, str]]:
    """Questions that cannot be asked as they are written."""
    seen: dict[str, int] = {}
    for place, one in enumerate(images.questions):
        loc: Loc = ("images", "questions", place)
        if one.task in seen:
            yield (*loc, "task"), f"'{one.task}' is the task of images.questions.{seen[one.task]} already"
        seen.setdefault(one.task, place)
        for language, wordings in one.ask.items():
            if not wordings or not all(wording.strip() for wording in wordings):
                yield (*loc, "ask", language), "needs at least one wording, and none may be empty"
            if not (one.key("answer", language) or "").strip():
                yield (*loc, "answer"), f"names no key for '{language}', in which it is asked"
            if isinstance(one.response, dict) and language not in one.response:
                yield (*loc, "response"), f"has no '{language}', in which it is asked"
        for pattern in one.response.values() if isinstance(one.response, dict) else [one.response or ""]:
            if (fault := _pattern_fault(pattern)) is not None:
                yield (*loc, "response"), f"{pattern!r}: {fault}; write {{KEY}} for what the annotation has under KEY"


def _pattern_fault(pattern: str) -> str | None:
    try:
        for _, key, form, conversion in string.Formatter().parse(pattern):
            if key is not None and (not key or form or conversion):
                return "a pair of braces holds a key and nothing else"
    except ValueError as error:
        return str(error)
    return None


def idle(images: ImagesSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that were written but that nothing reads: (place, reason, the option that makes it so)."""
    written = images.model_fields_set
    folders = [name for name in ("vertical", "general") if not getattr(images, name).startswith(CORPUS)]
    vertical: Loc = ("images", "vertical")
    if "per_symbol" in written and images.own:
        yield ("images", "per_symbol"), "images.vertical is a folder, which draws nothing", vertical
    for name in sorted({"title", "questions"} & written):
        if not images.own:
            yield ("images", name), "images.vertical is a corpus, which has its own", vertical
    if "general_questions" in written and "general" in folders:
        yield (
            ("images", "general_questions"),
            "images.general is a folder with its own questions",
            ("images", "general"),
        )
    if "max_pixels" in written and not folders:
        yield ("images", "max_pixels"), "both image sources are corpora, which open no files", vertical
    for name in sorted({"general", "general_questions"} & written):
        if images.general_count == 0:
            yield ("images", name), "images.general_count is 0", ("images", "general_count")
