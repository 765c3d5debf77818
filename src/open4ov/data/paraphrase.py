"""Do two questions ask the same thing in other words? By rules, in English and Chinese, without a model.

A question becomes a bag of what it is about: words without endings and fillers, numbers as digits, Chinese characters
without particles; a few dozen common ways to ask (how many, number of, 几个) are one token each (`paraphrase.yaml`).
Two bags are compared by their weighted overlap (Dice). How much is needed depends on the answers: equal answers are
evidence of their own, different ones ask for nearly the same wording. Two things are never overruled: different
numbers, and words that turn a question round (left for right, 最大 for 最小, a "not" on one side).

What it cannot see: synonyms outside its list. See docs/data.md for what it catches and what not.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from open4ov.answers import number, same, words

SAME_ANSWER, UNKNOWN_ANSWER, OTHER_ANSWER = 0.45, 0.62, 0.9
"""Overlap from which two questions are one, by what is known of their answers."""

EXCHANGED = 0.7
"""Overlap from which two questions are one although each has a word of content that the other has not."""

REPLY = 8
"""Words of an answer beyond which it is a reply, in which a short answer may stand."""

LONG = 5
"""Words of content from which equal wording is enough."""

_WORDS: dict[str, Any] = yaml.safe_load(files("open4ov.data").joinpath("paraphrase.yaml").read_text("utf-8"))
_LIGHT: dict[str, float] = _WORDS["light"]
_TURNS: list[list[str]] = _WORDS["turns"]
_FILLERS = frozenset(_WORDS["fillers"].split())
_PARTICLES = frozenset(_WORDS["particles"])
_ENGLISH = {token: re.compile(rf"\b(?:{'|'.join(ways['en'])})\b") for token, ways in _WORDS["ways"].items()}
_CHINESE = {token: re.compile("|".join(ways["zh"])) for token, ways in _WORDS["ways"].items()}
_NEGATED = re.compile(r"n't\b")
_WHETHER = re.compile(r"有没有|有无|是不是|能不能|会不会|是否|\bwhether or not\b")  # no negations
_POSSESSIVE = re.compile(r"(?<=\w)'s?\b")
_PIECES = re.compile(r"<[a-z ]+>|\d+(?:[.,]\d+)*(?:/\d+)?|[㐀-鿿]|[^\W\d_]+")


@dataclass(frozen=True)
class Question:
    """A question as `alike` compares it. `answer` None: not known."""

    bag: Mapping[str, int]
    numbers: tuple[str, ...]
    answer: str | None
    plain: str


@lru_cache(maxsize=1 << 16)
def _read(text: str) -> tuple[dict[str, int], tuple[str, ...], str]:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").split())
    plain_form = _WHETHER.sub("", plain)
    marked = _POSSESSIVE.sub("", _NEGATED.sub(" not", plain_form))
    for token in _ENGLISH:
        marked = _ENGLISH[token].sub(f" {token} ", marked)
        marked = _CHINESE[token].sub(f" {token} ", marked)
    bag: Counter[str] = Counter()
    numbers: list[str] = []
    for piece in _PIECES.findall(marked):
        if piece[0] == "<":
            bag[piece] = 1
        elif (value := _value(piece)) is not None:
            numbers.append(value)
            bag[value] += 1
        elif piece not in _FILLERS and piece not in _PARTICLES:
            bag[_stem(piece)] += 1
    return dict(bag), tuple(sorted(numbers)), re.sub(r"\W+", "", plain)


def question(text: str, answer: str | None = None, options: Sequence[str] = ()) -> Question:
    """Reads a question. A letter as the answer stands for its option (A is the first)."""
    if answer is not None and len(answer.strip()) == 1 and answer.strip().isalpha() and options:
        place = ord(answer.strip().upper()) - ord("A")
        answer = options[place] if 0 <= place < len(options) else answer
    bag, numbers, plain = _read(text)
    return Question(bag, numbers, answer, plain)


def alike(left: Question, right: Question) -> tuple[bool, float]:
    """Whether they ask the same, and the overlap of their bags in [0, 1]; equal long ones need no equal answers."""
    if left.plain and left.plain == right.plain:
        return len(left.bag) >= LONG or _answers(left, right) is not False, 1.0
    shared = total = 0.0
    for token in left.bag.keys() | right.bag.keys():
        weight = _LIGHT.get(token, 1.0)
        a, b = left.bag.get(token, 0), right.bag.get(token, 0)
        shared += 2 * weight * min(a, b)
        total += weight * (a + b)
    overlap = shared / total if total else 0.0
    if left.numbers != right.numbers or _turned(left.bag, right.bag):
        return False, overlap
    agreed = _answers(left, right)
    needed = UNKNOWN_ANSWER if agreed is None else SAME_ANSWER if agreed else OTHER_ANSWER
    if _own(left.bag, right.bag) and _own(right.bag, left.bag):
        needed = max(needed, EXCHANGED)
    return overlap >= needed, overlap


def _answers(left: Question, right: Question) -> bool | None:
    """Whether the answers are one; None where that is not known. A long reply is one with the short answer that it
    gives, and says nothing when it does not give it: it may be an explanation."""
    if not left.answer or not right.answer:
        return None
    if same(left.answer, right.answer):
        return True
    short, reply = sorted((words(left.answer), words(right.answer)), key=len)
    if len(reply) <= REPLY:
        return False
    return True if short and _gives(reply, short) else None


def _gives(reply: list[str], answer: list[str]) -> bool:
    """Whether the words of the answer stand in the reply, one after the other; numbers as words or digits."""
    ends = range(len(answer), len(reply) + 1)
    return any(all(map(same, reply[end - len(answer) : end], answer)) for end in ends)


def _own(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether it has a word of full weight that the other has not."""
    return any(token not in other and _LIGHT.get(token, 1.0) == 1.0 for token in one)


def _turned(left: Mapping[str, int], right: Mapping[str, int]) -> bool:
    if ("<not>" in left) != ("<not>" in right):
        return True
    for one, other in _TURNS:
        for a, b in ((one, other), (other, one)):
            if a in left and b not in left and b in right and a not in right:
                return True
    return False


def _value(piece: str) -> str | None:
    """Digits as they are, number words as digits; "one" and 一 are too common as fillers to be numbers."""
    if piece in ("one", "一", "〇", "零", "百", "十", "两"):
        return {"十": "10", "两": "2"}.get(piece)
    found = number(piece)
    return None if found is None else str(found)


def _stem(word: str) -> str:
    """An English word without its ending; others as they are."""
    if not word.isascii() or len(word) < 4:
        return word
    for ending, instead in (("ies", "y"), ("ied", "y"), ("ingly", ""), ("edly", ""), ("ing", ""), ("ed", ""),
                            ("ly", ""), ("es", ""), ("s", "")):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + instead
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.rstrip("e") if len(word) > 3 else word
