"""Needles: facts that are told somewhere in a long conversation and asked for at its end.

A fact is a code word of a thing, made of everyday words that the haystack does not hold. Code words of the splits are
disjoint, so that what a model is measured on it has not been taught.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from open4ov.answers import normalise
from open4ov.corpora import in_chinese, palette, words
from open4ov.corpora.generate import generate

THINGS = {
    "box": "盒子", "door": "门", "key": "钥匙", "bag": "包", "chair": "椅子", "boat": "船",
    "lamp": "灯", "book": "书", "cup": "杯子", "tent": "帐篷", "drawer": "抽屉", "safe": "保险箱",
}  # fmt: skip
_TOLD = {"en": "Please remember: the code word of the {} is {}.", "zh": "请记住：{}的暗号是{}。"}
_NOTED = {"en": "Noted.", "zh": "记住了。"}
_ASKED = {"en": "What is the code word of the {}?", "zh": "{}的暗号是什么？"}


@dataclass(frozen=True)
class Needle:
    """What the user tells, what is said to it, what is asked in the end, and the answer."""

    told: str
    noted: str
    question: str
    answer: str


@dataclass(frozen=True)
class Hidden:
    """A conversation with a needle in it: (question, response) turns, the last one asks for it; `at`: the turn that
    tells it; `depth`: the share of the haystack before it, by the turns' lengths."""

    turns: list[tuple[str, str]]
    at: int
    depth: float
    answer: str


def facts(rng: random.Random, language: str, split: str, count: int, context: str) -> list[Needle]:
    """`count` facts about different things with different answers, none of which stands in `context`."""
    tenth = {"test": (0,), "val": (1,)}.get(split, tuple(range(2, 10)))
    colours = [
        name if language == "en" else palette.CHINESE[name] for name in palette.COLOURS if name in palette.CHINESE
    ]
    space = " " if language == "en" else "的"
    names = [
        f"{colour}{space}{thing}" for colour in colours for thing in (THINGS if language == "en" else THINGS.values())
    ]
    chosen = rng.sample(names, count)
    there = normalise(" ".join((context, _TOLD[language], _NOTED[language], _ASKED[language], *chosen)))
    pool = [word for place, (word, form) in enumerate(_known(language)) if place % 10 in tenth and form not in there]
    answers: list[str] = []
    for word in rng.sample(pool, len(pool)):
        if len(answers) < count and not any(word in other or other in word for other in answers):
            answers.append(word)
    return [
        Needle(_TOLD[language].format(name, answer), _NOTED[language], _ASKED[language].format(name), answer)
        for name, answer in zip(chosen, answers, strict=True)
    ]


@cache
def _known(language: str) -> list[tuple[str, str]]:
    """Everyday words, and how `normalise` spells them."""
    return [(word, normalise(word)) for word in (words.ENGLISH if language == "en" else words.CHINESE)]


def hide(
    haystack: Sequence[tuple[str, str]],
    sizes: Sequence[float],
    depth: float,
    needles: Sequence[Needle],
    rng: random.Random,
) -> Hidden:
    """The haystack's turns with the first needle at `depth` (0: at the beginning, 1: just before the end), the others
    at random, and the question for the first one at the end. `sizes`: lengths of the turns, in any unit."""
    asked, *others = needles
    total, before, at = sum(sizes), 0.0, 0
    for place, size in enumerate(sizes):
        if before + size / 2 > depth * total:
            break
        before, at = before + size, place + 1
    parts: list[list[tuple[str, str]]] = [[] for _ in range(len(haystack) + 1)]
    parts[at].append((asked.told, asked.noted))
    for other in others:
        parts[rng.randrange(len(parts))].append((other.told, other.noted))
    turns: list[tuple[str, str]] = []
    for place, part in enumerate(parts):
        turns += [*part, *haystack[place : place + 1]]
    where = turns.index((asked.told, asked.noted))
    return Hidden([*turns, (asked.question, asked.answer)], where, before / total if total else 0.0, asked.answer)


def haystack(language: str, split: str, count: int, seed: int) -> list[tuple[str, str]]:
    """`count` turns of the shipped sums and instructions, which are about nothing that a needle tells."""
    turns: list[tuple[str, str]] = []
    streams = [generate(task, split, 4 * count + 40, seed) for task in ("instruction", "arithmetic")]
    rng = random.Random(f"haystack {language} {split} {seed}")
    for items in zip(*streams, strict=True):
        for item in items:
            if language == "en":
                turns.append((item.sample.messages[0].text, item.sample.messages[1].text))
            elif qa := in_chinese.ask(item.sample.scene or {}, rng):
                turns.append((qa.question, qa.response))
        if len(turns) >= count:
            break
    return turns[:count]
