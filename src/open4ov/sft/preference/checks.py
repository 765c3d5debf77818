"""Whether a response is in a style: what the user asked for, checked on the text alone.

The checks are of form. Whether the facts are right is for the verifier; `keeps` says whether they are all there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from open4ov.answers import words

Check = Callable[[str, str], bool]
"""A response and its language ("en" or "zh") -> whether it is in the style."""

BRIEF = {"en": 12, "zh": 24}
"""Most words (en) or characters (zh) of a concise response."""
SPOKEN = {"en": 8, "zh": 12}
"""Fewest words or characters of a human-like response."""

_HEADING = re.compile(r"#{1,6} +\S")
_ITEM = re.compile(r"(?:[-*+]|\d{1,3}[.)])\s+\S")
_BOLD_KEY = re.compile(r"\*\*[^*\n]+\*\*\s*[:：]\s*\S|\*\*[^*\n]+[:：]\*\*\s*\S")
_RULE = re.compile(r"\|?\s*:?-{3,}:?\s*(?:\|\s*:?-{3,}:?\s*)*\|?")
_WARM = {
    "en": re.compile(
        r"\b(?:i|i'm|i'd|me|my|let's|sure|of course|happy|glad|hope|thanks|good that you)\b", re.IGNORECASE
    ),
    "zh": re.compile(r"[我咱]|好的|当然|没问题|希望|祝您|祝你|很高兴|请告诉|您看|您问|您可以"),
}
"""Words of someone who speaks to someone; plain statements and instructions have none of them"""
_END = re.compile(r"[.!?。！？](?=\s|$|[\u3400-\u9fff“\"])")


def structures(text: str) -> set[str]:
    """The Markdown structures of a text, each well formed: "heading", "list", "table", "keys" (bold key: value)."""
    lines = text.split("\n")
    found: set[str] = set()
    for place, line in enumerate(lines):
        bare = line.strip()
        if _HEADING.match(bare):
            found.add("heading")
        if _ITEM.match(bare):
            found.add("list")
        if _BOLD_KEY.match(_ITEM.sub(lambda m: m[0][-1], bare, count=1)):
            found.add("keys")
        if place and _RULE.fullmatch(bare) and "|" in bare and _table(lines[place - 1 :]):
            found.add("table")
    return found


def markdown(text: str, language: str = "en") -> bool:
    """Structured Markdown: at least one structure, no table that breaks off, no mark left open."""
    return bool(structures(text)) and not _broken(text)


def human(text: str, language: str) -> bool:
    """As one speaks: full sentences, at least two, to someone; no lists, headings, tables, bold or boxes."""
    if structures(text) or _marks(text) or "\n" in text.strip():
        return False
    sentences = _END.findall(text)
    return (
        len(sentences) >= 2
        and text.strip()[-1] in ".!?。！？"
        and _size(text, language) >= SPOKEN[language]
        and bool(_WARM[language].search(text))
    )


def concise(text: str, language: str) -> bool:
    """One line of at most `BRIEF` words (en) or characters (zh), without a box, working or Markdown."""
    bare = text.strip()
    return (
        bool(bare)
        and "\n" not in bare
        and not _marks(bare)
        and "=" not in bare
        and _size(bare, language) <= BRIEF[language]
    )


def usual(text: str, language: str) -> bool:
    """None of the styles that must be asked for: no Markdown and nobody addressed warmly."""
    return bool(text.strip()) and not structures(text) and "**" not in text and not human(text, language)


CHECKS: dict[str, Check] = {"markdown": markdown, "human": human, "concise": concise, "usual": usual}


def keeps(text: str, references: Sequence[str]) -> bool:
    """Whether every content word of the references (names, numbers; Chinese: every character) is in the text."""
    there = set(words(text))
    return all(word in there for reference in references for word in words(reference) if word not in _LIGHT)


def in_language(text: str, language: str) -> bool:
    """Whether a response is in the language of its question; names and words that it quotes may be in the other."""
    han, latin = len(re.findall(r"[\u3400-\u9fff]", text)), len(re.findall(r"[A-Za-z]{2,}", text))
    return han > 0 or latin == 0 if language == "zh" else han == 0 or latin >= han


_LIGHT = frozenset(
    ["a", "an", "the", "is", "are", "it", "its", "this", "that", "there", "of", "to", "and", "or", "in", "on", "at",
     "be", "的", "了", "是", "这", "那", "和"]
)  # fmt: skip


def _size(text: str, language: str) -> int:
    return len(words(text)) if language == "zh" else len(text.split())


def _marks(text: str) -> bool:
    return "**" in text or "\\boxed" in text or "`" in text or "|" in text


def _broken(text: str) -> bool:
    """A bold mark that is never closed, or a row of pipes that belongs to no table."""
    lines = text.split("\n")
    pipes = [line.strip().startswith("|") for line in lines]
    starts = [place for place, pipe in enumerate(pipes) if pipe and not (place and pipes[place - 1])]
    return text.count("**") % 2 == 1 or any(not _table(lines[place:]) for place in starts)


def _table(lines: Sequence[str]) -> bool:
    """Whether a table begins here: a row, a rule of as many cells, and at least one more row, all of one width."""
    rows: list[list[str]] = []
    for line in lines:
        bare = line.strip()
        if "|" not in bare:
            break
        rows.append(bare.strip("|").split("|"))
    return (
        len(rows) >= 3
        and _RULE.fullmatch(lines[1].strip()) is not None
        and all(len(row) == len(rows[0]) for row in rows)
        and all(any(c.strip() for c in row) for row in rows)
    )
