"""Instruction preferences (paper §3.2.3): the same facts as Markdown, as one speaks, or in few words, when asked for.

- markdown: a list, a table, a heading with a list, or bold keys with their values
- human: warm, spoken, full sentences
- concise: the reference answers and nothing else
- usual: no style is asked for, and the usual response is given: without these a style would spread to where nobody
  wants it. Among them are sums that nobody wants in a box, answered without one

A style is asked for in one of several wordings. The facts are reference answers to questions of one picture (or about
one thing by its name); the frames around them are templates. A model may rewrite them (`rewrite.py`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from open4ov.answers import normalise, plainly
from open4ov.sample import Sample, assistant, user
from open4ov.sft.preference import checks
from open4ov.sft.preference.draft import Draft
from open4ov.sft.preference.phrases import (
    CLOSERS,
    COLON,
    COLUMNS,
    FORMS,
    JOIN,
    KEYS,
    OPENERS,
    REQUESTS,
    SPOKEN,
    TITLE,
)
from open4ov.sft.preference.pool import LANGUAGES, Group, Pool

MOST_FACTS = 3
PICTURED = 0.7
"""Share of the styled samples that are about a picture, where there are others too."""
BEFORE = 0.25
"""Share of the requests that stand before the question."""


@dataclass(frozen=True)
class Fact:
    """A question's reference answer and what it is called."""

    sample: Sample
    kind: str
    value: str

    @property
    def key(self) -> str:
        return KEYS.get(self.kind, KEYS[""])[self.sample.language]


def fact(sample: Sample) -> Fact | None:
    """The sample's answer; None for one without a reference, or that no line of a list or table can hold."""
    if not sample.answer or any(mark in sample.answer for mark in "\n|*\\"):
        return None
    kind = sample.task.rpartition("_")[2]
    if kind == "severity" and (sample.scene or {}).get("symbol_kind") == "road_sign":
        kind = "class"
    return Fact(sample, kind, sample.answer.strip())


class Styles:
    """Draws from a pool. `missing`: why a style cannot be made at all."""

    def __init__(self, pool: Pool) -> None:
        self.pictures = {name: _told(pool.pictures[name]) for name in LANGUAGES}
        self.texts = {name: _told([*pool.named[name], *([s] for s in pool.texts[name])]) for name in LANGUAGES}
        self.languages = [name for name in LANGUAGES if self.pictures[name] or self.texts[name]]

    def missing(self, kind: str) -> str | None:
        return None if self.languages else f"no question has a reference answer to give in the style {kind}"

    def draw(self, kind: str, rng: random.Random) -> Draft | None:
        """One sample of a style that is not missing; None when the draw does not suit it."""
        language = rng.choice(self.languages)
        pictured, worded = self.pictures[language], self.texts[language]
        groups = pictured if not worded or (pictured and rng.random() < PICTURED) else worded
        facts = _choose(rng.choice(groups), rng)
        if kind == "usual":
            return _usual(facts, rng)
        if kind == "concise":
            return _concise(facts, rng)
        if kind == "human":
            return _draft(kind, facts, "human", spoken(facts, rng), rng)
        form = rng.choice(FORMS)
        return _draft(kind, facts, form, written(facts, form), rng)


def written(facts: Sequence[Fact], form: str) -> str:
    """The facts in a form of Markdown."""
    language = facts[0].sample.language
    lines = [f"**{each.key}**{COLON[language]}{each.value}" for each in facts]
    if form == "keys":
        return "\n\n".join(lines)
    if form == "table":
        rows = [COLUMNS[language], ("---", "---"), *((each.key, each.value) for each in facts)]
        return "\n".join(f"| {left} | {right} |" for left, right in rows)
    listed = [f"- {line}" for line in lines]
    if form == "list":
        return "\n".join(listed)
    named = next((each for each in facts if each.kind in ("name", "naming")), None)
    rest = [line for line, each in zip(listed, facts, strict=True) if each is not named or len(facts) == 1]
    return "\n".join([f"## {named.value if named else TITLE[language]}", "", *rest])


def spoken(facts: Sequence[Fact], rng: random.Random) -> str:
    """The facts as one would tell them."""
    language = facts[0].sample.language
    told = [rng.choice(OPENERS[language])]
    for each in facts:
        frame = rng.choice(SPOKEN.get(each.kind, SPOKEN[""])[language])
        value = each.value
        if value[-1] in ".!?。！？" and not frame.endswith("{}"):
            value = value.rstrip(".!?。！？")
        sentence = frame.format(value)
        told.append(sentence if sentence[-1] in ".!?。！？" else sentence + ("。" if language == "zh" else "."))
    told.append(rng.choice(CLOSERS[language]))
    return ("" if language == "zh" else " ").join(told)


def asked(facts: Sequence[Fact], request: str, first: bool) -> str:
    """The questions in one message, with the request before or after them."""
    language = facts[0].sample.language
    questions = [plainly(each.sample.messages[0].text) or each.sample.messages[0].text for each in facts]
    parts = [request, *questions] if first else [*questions, request]
    return ("" if language == "zh" else " ").join(part for part in parts if part)


def _told(groups: Sequence[Group]) -> list[list[Fact]]:
    found = ([each for each in map(fact, group) if each is not None] for group in groups)
    return [group for group in found if group]


def _choose(group: list[Fact], rng: random.Random) -> list[Fact]:
    """One to `MOST_FACTS` of a group's facts, none of which is part of another."""
    wanted = rng.randint(1, min(MOST_FACTS, len(group)))
    chosen: list[Fact] = []
    for each in rng.sample(group, len(group)):
        value = normalise(each.value)
        others = [normalise(other.value) for other in chosen]
        if len(chosen) < wanted and not any(value in other or other in value for other in others):
            chosen.append(each)
    return chosen


def _concise(facts: list[Fact], rng: random.Random) -> Draft | None:
    """Where the usual response says more than the bare answers, and these are short."""
    language = facts[0].sample.language
    answer = JOIN[language].join(each.value.rstrip(".。") for each in facts) if len(facts) > 1 else facts[0].value
    said = sum(len(each.sample.messages[1].text) for each in facts)
    if said <= sum(len(each.value) for each in facts) or not checks.concise(answer, language):
        return None
    return _draft("concise", facts, "concise", answer, rng)


def _usual(facts: list[Fact], rng: random.Random) -> Draft:
    """Nobody asks for a style. Questions whose box was taken away get the bare answer."""
    language, told = facts[0].sample.language, list[str]()
    keep = len(facts) == 1 and rng.random() < 0.5
    for each in facts:
        boxed = "\\boxed" in each.sample.messages[1].text
        told.append(each.value if boxed and not keep else each.sample.messages[1].text)
    question = facts[0].sample.messages[0].text if keep else asked(facts, "", False)
    if all(text[-1] in ".!?。！？" for text in told):
        return _styled("usual", facts, question, ("" if language == "zh" else " ").join(told), {})
    return _styled("usual", facts, question, JOIN[language].join(text.rstrip(".。") for text in told), {})


def _draft(kind: str, facts: list[Fact], style: str, response: str, rng: random.Random) -> Draft:
    language = facts[0].sample.language
    request = rng.choice(REQUESTS[style][language][:-1])
    question = asked(facts, request, rng.random() < BEFORE)
    return _styled(kind, facts, question, response, {"style": style})


def _styled(kind: str, facts: list[Fact], question: str, response: str, about: dict[str, object]) -> Draft:
    language, images = facts[0].sample.language, facts[0].sample.images
    return Draft(
        kind,
        [each.sample for each in facts],
        [user(question, images=len(images)), assistant(response)],
        list(images),
        [" ".join(each.value for each in facts)],
        facts[0].sample if len(facts) == 1 else None,
        checks={
            kind: checks.CHECKS[kind](response, language),
            "facts": checks.keeps(response, [f.value for f in facts]),
        },
        about={**about, "facts": [each.value for each in facts]},
    )
