"""Candidates as samples: what a document prints, what a model asks about its figures, and where each comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from open4ov.answers import boxed, same
from open4ov.documents.blocks import Block
from open4ov.documents.candidates import Figure, Found
from open4ov.documents.exam import Printed
from open4ov.documents.mineru import is_content_list
from open4ov.mllm.costs import shares
from open4ov.sample import Sample, Step, assistant, content_id, user

_LETTER = re.compile(r"^[(（\[]?([A-H])(?:[)）\].．、:：\s]|$)")
_ABOUT_OPTIONS = re.compile(
    r"\b(?:which|what) of the (?:following|these|options|statements)|\bfollowing (?:is|are|statements?)"
    r"|\bnot\b|\bexcept\b|以下|下列|选项|不正确|错误的",
    re.IGNORECASE,
)
_ABOUT_OTHERS = re.compile(r"\b(?:above|both|neither|none|either|[A-H] and [A-H])\b|以上|都|均", re.IGNORECASE)
OPEN_WORDS = 4
"""Words of an option, at most, that can be asked for without showing it."""


@dataclass(frozen=True)
class Document:
    """A document: its file's name as given, and the SHA-256 of its bytes."""

    name: str
    sha: str


def language_of(text: str) -> Literal["en", "zh"]:
    """`zh` for a text in which at least a tenth of the letters are Chinese."""
    letters = [letter for letter in text if letter.isalpha()]
    chinese = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    return "zh" if letters and chinese * 10 >= len(letters) else "en"


def figure_sample(document: Document, figure: Figure) -> Sample:
    """A figure as an image to make data from: no messages; caption and referring text are its annotation."""
    block = figure.block
    scene = {"caption": block.caption, "label": block.label, "text": figure.text, "words_in_it": block.text}
    sample = _sample(document, [block], figure.page_image, "image", language_of(block.caption + " ".join(figure.text)))
    sample.id, sample.lineage = _figure_id(document, block), []
    sample.scene = {name: value for name, value in scene.items() if value}
    return sample


def printed_sample(document: Document, question: Printed, found: Found) -> Sample:
    """A printed question with its pictures; one with short options is asked openly (§4.1.1: no letter to guess)."""
    figures = question.figures
    sample = _sample(document, figures, found.page_images.get(figures[0].page), "document_question", question.language)
    answer = (question.answer or "").strip()
    boxed_answer = boxed(answer)
    answer, aliases, text = boxed_answer or answer, list[str](), question.text
    letter = _LETTER.match(answer)
    if question.options:
        sample.extra["options"] = question.options
        if letter is None:  # the option itself is given
            letters = [key for key, option in question.options.items() if same(option, answer)]
            answer = letters[0] if len(letters) == 1 else answer
        else:
            answer = letter[1]
        if answer in question.options:
            sample.extra["letter"] = answer
            option = question.options[answer]
            if _can_be_open(text, question.options):
                answer = option
                text = re.sub(r"\s*(?:[(（]\s*[)）])\s*[.。]?\s*$", "", text)
            else:
                aliases = [option] if option else []
                text += "".join(f"\n{key}. {value}" for key, value in question.options.items())
        elif answer:
            sample.extra["faults"] = [f"its answer {answer!r} is none of its options {', '.join(question.options)}"]
    sample.answer, sample.aliases = answer or None, aliases
    sample.messages = [user(text, images=len(sample.images)), assistant(f"\\boxed{{{answer}}}")]
    sample.extra |= {"origin": "printed", "number": question.number}
    sample.extra["boxes"] = [_box(block) for block in (*question.blocks, *figures)]
    if not question.points_at_picture:
        sample.extra["points_nowhere"] = True
    sample.id = content_id("printed", document.sha, sample.images, question.number, text, answer)
    return sample


def asked_samples(
    document: Document, figure: Figure, questions: Sequence[dict[str, Any]], written: Step | None
) -> list[Sample]:
    """What a model asked about a figure, each question once; one without question, answer or response is left out.

    `written`: the step that they were written in, of which each bears its part.
    """
    made: dict[str, Sample] = {}
    for asked in questions:
        question, answer, response = (asked[name].strip() for name in ("question", "answer", "response"))
        answer = boxed(answer) or answer
        if not question or not answer or not response:
            continue
        given = boxed(response)
        if given is None or not same(given, answer):
            response = f"{response} \\boxed{{{answer}}}"
        sample = _sample(
            document, [figure.block], figure.page_image, asked["task"].strip() or "figure", language_of(question)
        )
        sample.id = content_id("asked", document.sha, sample.images, question)
        sample.messages = [user(question, images=1), assistant(response)]
        sample.answer, sample.aliases = answer, [alias.strip() for alias in asked["aliases"] if alias.strip()]
        sample.extra |= {"origin": "asked", "text": figure.text}
        made.setdefault(sample.id, sample)
    for sample, step in zip(made.values(), shares(written, len(made)) if written else (), strict=False):
        sample.steps = [*sample.steps, step]
    return list(made.values())


def _sample(
    document: Document, figures: Sequence[Block], page_image: str | None, task: str, language: Literal["en", "zh"]
) -> Sample:
    first = figures[0]
    return Sample(
        id="",
        source="document",
        task=task,
        language=language,
        images=[figure.image for figure in figures if figure.image],
        lineage=[_figure_id(document, figure) for figure in figures],
        steps=[
            Step(
                stage="document",
                by="mineru" if is_content_list(Path(document.name)) else "pdf",
                file=document.name,
                place=f"page {first.page}",
            )
        ],
        extra={
            "file": document.name,
            "document": document.sha,
            "group": document.sha,  # all of a document on one side of a split
            "page": first.page,
            "page_image": page_image,
            "figure": first.label,
            "caption": first.caption,
            "boxes": [_box(figure) for figure in figures],
        },
    )


def _figure_id(document: Document, figure: Block) -> str:
    """The id of a figure in figures.parquet, which is the parent of what is asked about it."""
    return content_id("figure", document.sha, figure.page, figure.box)


def _box(block: Block) -> dict[str, Any]:
    return {"page": block.page, "kind": block.kind, "points": [round(side, 1) for side in block.box]}


def _can_be_open(text: str, options: dict[str, str]) -> bool:
    if _ABOUT_OPTIONS.search(text) or len({option.casefold() for option in options.values()}) < len(options):
        return False
    return all(
        option and len(option.split()) <= OPEN_WORDS and len(option) <= 40 and not _ABOUT_OTHERS.search(option)
        for option in options.values()
    )
