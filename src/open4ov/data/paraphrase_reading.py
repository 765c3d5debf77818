"""What a question is about: the words it is compared by (`paraphrase.py`), in English and Chinese, without a model.

A question becomes a sequence of tokens: words without endings and fillers, numbers as digits, Chinese characters
without particles. Common ways to ask (how many, number of, 几个) and words of one meaning (nearest, closest) are one
token each; both lists are in `paraphrase.yaml`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from open4ov.answers import number

_WORDS: dict[str, Any] = yaml.safe_load(files("open4ov.data").joinpath("paraphrase.yaml").read_text("utf-8"))
LIGHT: dict[str, float] = _WORDS["light"]
"""What a token weighs beside 1."""

TURNS: list[list[str]] = _WORDS["turns"]
"""Tokens that ask for different things."""

WEAK = frozenset(_WORDS["weak"].split())
"""Answers that many questions have."""

_FILLERS = frozenset(_WORDS["fillers"].split())
_PARTICLES = frozenset(_WORDS["particles"])
_ENGLISH = {token: re.compile(rf"\b(?:{'|'.join(ways['en'])})\b") for token, ways in _WORDS["ways"].items()}
_CHINESE = {token: re.compile("|".join(ways["zh"])) for token, ways in _WORDS["ways"].items()}
_NEGATED = re.compile(r"n't\b")
_WHETHER = re.compile(r"有没有|有无|是不是|能不能|可不可以|会不会|是否|能否|可否|\bwhether or not\b")  # no negations
_POSSESSIVE = re.compile(r"(?<=\w)'s?\b")
_NO_NUMBER = re.compile(r"十分|千万(?!元|人|吨)|万一|(?<=第)[一二三四五六七八九十]+|[三四五六八]+(?=角|边形)")
_PIECES = re.compile(r"<[a-z ]+>|\d+(?:[.,]\d+)*(?:/\d+)?|[零〇一二两三四五六七八九十百千万]+|[㐀-鿿]|[^\W\d_]+")
_SIGNS = {"−": "-", "×": "*", "÷": "/"}
_OPERATION = re.compile(r"(?<=[\d)a-z])\s*([-+*/×÷^−])\s*(?=[\d(]|[a-z]\b)")


_TWO = frozenset(["two", "both", "两", "二"])

TWO = "two"
"""The number 2 written as a word, which another wording may leave out (the two cups, the cups)."""


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


_SYNONYM = {_stem(word): line.split()[0] for line in _WORDS["synonyms"]["en"] for word in line.split()}
_SYNONYMS_ZH = {word: f"<{number}>" for number, line in enumerate(_WORDS["synonyms"]["zh"]) for word in line.split()}
_LONGEST_FIRST = re.compile("|".join(sorted(map(re.escape, _SYNONYMS_ZH), key=lambda word: (-len(word), word))))


@lru_cache(maxsize=1 << 16)
def read(text: str) -> tuple[tuple[str, ...], frozenset[str], tuple[str, ...], str]:
    """(tokens in order, the different numbers with `TWO`, operation signs in order, letters and digits alone)."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").split())
    marked = _NO_NUMBER.sub("", _WHETHER.sub(" ", plain))
    signs = tuple(_SIGNS.get(found[1], found[1]) for found in _OPERATION.finditer(plain))
    marked = _POSSESSIVE.sub("", _NEGATED.sub(" not", marked))
    for token in _ENGLISH:
        marked = _ENGLISH[token].sub(f" {token} ", marked)
        marked = _CHINESE[token].sub(f" {token} ", marked)
    marked = _LONGEST_FIRST.sub(lambda found: f" {_letters(_SYNONYMS_ZH[found[0]])} ", marked)
    tokens: list[str] = []
    numbers: set[str] = set()
    for piece in _PIECES.findall(marked):
        if piece[0] == "<":
            tokens += [piece] if piece not in tokens else []
        elif (value := _value(piece)) is not None:
            tokens.append(value)
            numbers.add(TWO if piece in _TWO else value)
        elif piece not in _FILLERS and piece not in _PARTICLES:
            stem = _stem(piece)
            tokens.append(_SYNONYM.get(stem, stem))
    return tuple(tokens), frozenset(numbers), signs, re.sub(r"\W+", "", plain)


def _letters(token: str) -> str:
    """A numbered token spelled in letters: pieces in angle brackets have no digits."""
    return "".join(chr(ord("a") + int(c)) if c.isdigit() else c for c in token)


def _value(piece: str) -> str | None:
    """Digits as they are, number words as digits; "one" and 一 are too common as fillers to be numbers."""
    if piece in ("one", "一", "〇", "零", "百", "千", "万"):
        return None
    found = number({"两": "二", "both": "two"}.get(piece, piece))
    return None if found is None else str(found)
