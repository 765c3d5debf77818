"""Responses in a style, written by a model where the recipe names one (`data.roles.preference`), not by a template.

A model's answer is taken only if it is in the style asked for, in the language of the question, and holds every content
word of the reference answers; else the template's response stays, and the reason is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

from open4ov.mllm import Asker, Picture, Prompt, Request
from open4ov.mllm.answers import Answer
from open4ov.mllm.ask import AnswerError
from open4ov.recipe_preference import REWRITTEN
from open4ov.sample import Sample, assistant
from open4ov.sft.preference import checks

ROLE = "preference"
STYLES = {
    "list": "Use a Markdown list, its items with bold keys.",
    "table": "Use a Markdown table with a header row.",
    "heading": "Use a Markdown heading and a list below it.",
    "keys": "Use Markdown lines of a bold key, a colon and a value.",
    "human": "Speak to the user warmly and naturally, in full sentences, without lists, headings or bold words.",
    "concise": f"At most {checks.BRIEF['en']} words (or {checks.BRIEF['zh']} Chinese characters), on one line.",
}
LANGUAGES = {"en": "English", "zh": "Chinese"}


class Rewritten(Answer):
    """What the role `preference` answers."""

    response: str


def rewrite(
    samples: Sequence[Sample],
    asker: Asker,
    picture: Callable[[str], Picture],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Sample], dict[str, int]]:
    """The samples in their order, those in a style with the model's responses where these are fit; and how many were
    rewritten, and how many not, by reason. Raises UserError when the catalog would play the role."""
    asker.require_model(ROLE, "take the role out of data.roles: the styles are then templates")
    chosen = [place for place, s in enumerate(samples) if s.extra.get("preference") in REWRITTEN and "style" in s.extra]
    requests = [_request(samples[place], picture) for place in chosen]
    counts: Counter[str] = Counter()
    made = list(samples)
    for place, answer in zip(chosen, asker.ask_many(requests, progress), strict=True):
        sample = samples[place]
        fault = answer.kind if isinstance(answer, AnswerError) else wrong(sample, answer["response"])
        counts[fault or "rewritten"] += 1
        if isinstance(answer, AnswerError) or fault:
            continue
        step = asker.step(ROLE, "preference", answer)
        made[place] = sample.model_copy(
            update={
                "messages": [*sample.messages[:-1], assistant(answer["response"].strip())],
                "steps": [*sample.steps, *([step] if step else [])],
                "extra": {**sample.extra, "rewritten": True},
            }
        )
    return made, dict(sorted(counts.items()))


def wrong(sample: Sample, response: str) -> str | None:
    """Why a response is not taken for a sample in a style; None when it is."""
    kind, style = str(sample.extra["preference"]), str(sample.extra["style"])
    if not checks.CHECKS[kind](response, sample.language):
        return "not in the style"
    if kind == "markdown" and style not in checks.structures(response):
        return "not in the style"
    if not checks.in_language(response, sample.language):
        return "in another language"
    if not checks.keeps(response, _facts(sample)):
        return "a fact is missing"
    return None


def _request(sample: Sample, picture: Callable[[str], Picture]) -> Request:
    values = {
        "request": sample.messages[0].text,
        "response": sample.messages[-1].text,
        "facts": _facts(sample),
        "style": STYLES[str(sample.extra["style"])],
        "language": LANGUAGES[sample.language],
    }

    def check(answer: dict[str, Any]) -> str | None:
        fault = wrong(sample, answer["response"])
        return f"the response is {fault}" if fault else None

    pictures = [picture(sha) for sha in sample.images]
    return Request(ROLE, Prompt("preference", values), pictures, Rewritten, check)


def _facts(sample: Sample) -> list[str]:
    return cast("list[str]", sample.extra["facts"])
