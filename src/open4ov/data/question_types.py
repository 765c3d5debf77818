"""Question types: which suit an ability, how they are spread over an image's budget, and what each asks of an answer.

An ability L1 of the label tree names its types, the most fitting first; one that names none takes every type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from open4ov.data.labels import QUESTION_TYPES, LabelTree
from open4ov.data.topics import Topic
from open4ov.mllm.weights import turn

MEANING = {
    "open": "an open question with a short answer",
    "choice": "a multiple-choice question: list 3 to 5 options in \"options\", the answer being one of them verbatim",
    "yes_no": "a question that is answered yes or no (是 or 否 in Chinese); about as many no as yes",
    "counting": "a question for a number of things, answered with the number",
    "reading": "a question for text or numbers to be read in the image, answered as they are written there",
    "reasoning": "a question that takes several steps; the response gives the steps, the answer the result",
    "description": "a request to describe or explain; the response has several sentences, the answer its gist",
}  # fmt: skip
assert tuple(MEANING) == QUESTION_TYPES

YES = frozenset({"yes", "no", "是", "否", "不是", "有", "没有"})
_NUMBER = re.compile(r"-?\d+([.,]\d+)?|[零一二两三四五六七八九十百千]+")
NUMBER_WORDS = frozenset(
    ["zero", "none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
)


@dataclass(frozen=True)
class Planned:
    """One question to ask: under which topic, of which type, in which language."""

    topic: str
    type: str
    language: str


def types_of(topic: Topic, tree: LabelTree) -> tuple[str, ...]:
    """The types that suit a topic's ability."""
    named = next((l1.types for l1 in tree.ability if l1.name == topic.ability[0]), ())
    return named or QUESTION_TYPES


def plan(
    topics: Sequence[Topic],
    tree: LabelTree,
    budget: int,
    languages: Sequence[str],
    shift: int,
    weight: Callable[[str, str | None], float] = lambda path, kind: 1.0,
) -> list[Planned]:
    """`budget` questions over the topics in turn, each topic's types in turn, and the languages in turn.

    `shift` starts types and languages at another place for each image, so that over many images each comes as often.
    `weight`: of a topic (by its path), or of a type under it: who has twice the weight has twice as many turns.
    """
    planned: list[Planned] = []
    used: dict[str, int] = {}
    asked = [0] * len(topics)
    kinds = [types_of(topic, tree) for topic in topics]
    shares = [sum(weight(one.path, kind) for kind in of) / len(of) for one, of in zip(topics, kinds, strict=True)]
    for number in range(budget if topics else 0):
        at = min(range(len(topics)), key=lambda n: turn(shares[n], asked[n], n, len(topics)))
        topic, types = topics[at], kinds[at]
        fresh = min(
            range(len(types)),
            key=lambda n: turn(
                weight(topic.path, types[n]), used.get(types[n], 0), (n - shift) % len(types), len(types)
            ),
        )
        asked[at] += 1
        used[types[fresh]] = used.get(types[fresh], 0) + 1
        planned.append(Planned(topic.path, types[fresh], languages[(number + shift) % len(languages)]))
    return planned


def misfit(kind: str, answer: str, options: Sequence[str]) -> str | None:
    """Why an answer is none of its type, or None. Open, reading, reasoning and description bind nothing."""
    plain = answer.strip().casefold().rstrip(".。!！")
    if kind == "choice":
        given = [option.strip().casefold() for option in options]
        if len(set(given)) < 2 or len(set(given)) != len(given):
            return "a choice needs two or more different options"
        return None if answer.strip().casefold() in given else "the answer is none of the options"
    if options:
        return f"options do not belong to {kind}"
    if kind == "yes_no":
        return None if plain in YES else "the answer is neither yes nor no"
    if kind == "counting":
        number = plain in NUMBER_WORDS or _NUMBER.fullmatch(re.sub(r"[个只辆条张人块]$", "", plain))
        return None if number else "the answer is no number"
    return None
