"""Sets, tuples, lists, intervals and equations as answers: taken apart, their parts compared by whoever asks.

Braces make a set: no order, nothing twice. Round and square brackets make a tuple or an interval: order and brackets
count. A bare list keeps its order, but for one of numbers joined by "or" or "and" (和, 或), solutions of an unknown
(x = 2, 3), and ±. An unknown that only one of the two names is passed over (x = 3 agrees with 3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Same = Callable[[str, str], bool]
_PAIRS = {"(": ")", "[": "]", "{": "}", "⦃": "⦄"}
_OPENING, _CLOSING = set(_PAIRS), set(_PAIRS.values())
_JOINED = re.compile(r" (?:or|and) |或者?|[和与及]|以及")
_RELATION = re.compile(r"[<>≤≥]")
_UNKNOWN = re.compile(r"(?:[a-zA-Zαβγθλμφω]|\\[a-z]+)(?:_(?:\w|\{\w+\})|'|\([a-zA-Z](?:, ?[a-zA-Z])*\))?")
_TURNED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}


@dataclass(frozen=True)
class Collection:
    """`brackets`: those around it, "" for a bare list; `ordered`: whether order counts."""

    items: tuple[str, ...]
    brackets: str
    ordered: bool


@dataclass(frozen=True)
class Interval:
    """Ends as they are written; `brackets`: "[" or "(" and "]" or ")"; `unknown`: of a relation, else ""."""

    low: str
    high: str
    brackets: str
    unknown: str = ""


def parts(text: str, separators: str = ",，、;；") -> list[str]:
    """A text cut at separators that stand in no brackets; a comma between the figures of a number is none."""
    found: list[str] = []
    depth = start = 0
    for place, character in enumerate(text):
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif depth == 0 and character in separators:
            found.append(text[start:place].strip())
            start = place + 1
    return [*found, text[start:].strip()]


def brackets(text: str) -> str:
    """The brackets around the whole of a text that hold a list: "()", "[)", "⦃⦄"...; else ""."""
    if len(text) < 2 or text[0] not in _OPENING or text[-1] not in _CLOSING:
        return ""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            kind = text[0] + text[-1]
            return kind if place == len(text) - 1 and len(parts(text[1:-1])) > 1 else ""
    return ""


def collection(text: str, is_value: Callable[[str], bool]) -> Collection | None:
    """A tidy text as a collection of two items or more (a set: of one or more); None for anything else.

    `is_value`: whether an item is a number or mathematics, rather than words.
    """
    if kind := brackets(text):
        if kind not in ("()", "⦃⦄", "{}", "[]", "[)", "(]"):
            return None
        unordered = kind in ("⦃⦄", "{}")
        return Collection(tuple(parts(text[1:-1])), "⦃⦄" if unordered else kind, not unordered)
    if text.startswith("⦃") and text.endswith("⦄") and "⦃" not in text[1:]:
        return Collection((text[1:-1].strip(),), "⦃⦄", False)
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        return None
    unknown, side = _solved(text)
    if side and (signs := _both_signs(side)):
        return Collection(tuple(f"{unknown}={one}" if unknown else one for one in signs), "", False)
    if side and unknown and len(items := parts(side)) > 1 and not any("=" in one for one in items):
        return Collection(tuple(f"{unknown}={one}" for one in items), "", False)
    joined = [piece.strip() for piece in _JOINED.split(text)]
    if len(joined) > 1 and all(joined):
        items = [item for piece in joined for item in parts(piece) if item]
        return Collection(tuple(items), "", not all(is_value(item) for item in items))
    items = parts(text)
    if len(items) > 1 and all(items):
        return Collection(tuple(items), "", not all(unknown_of(item) for item in items))
    return None


def alike(given: Collection, reference: Collection, same: Same) -> bool:
    """Whether two collections hold the same, in the same order where that counts."""
    if given.brackets and reference.brackets and given.brackets != reference.brackets:
        return False
    left, right = given.items, reference.items
    if reference.ordered and (given.ordered or not given.brackets):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if reference.brackets == "⦃⦄" or given.brackets == "⦃⦄":
        left, right = _once(left, same), _once(right, same)
    return _matched(left, right, same)


def intervals(text: str) -> list[Interval] | None:
    """A tidy text as a union of intervals: brackets with two ends, or inequalities of one unknown; else None."""
    found = [_interval(one.strip()) for one in text.split("∪")]
    return [one for one in found if one is not None] if None not in found else None


def alike_intervals(given: Sequence[Interval], reference: Sequence[Interval], same: Same) -> bool:
    """Whether two unions are the same, their intervals in any order; unknowns count where both name one."""

    def equal(one: Interval, other: Interval) -> bool:
        named = {one.unknown, other.unknown} - {""}
        ends = one.brackets == other.brackets and len(named) < 2
        return ends and same(one.low, other.low) and same(one.high, other.high)

    left = list(given)
    for one in reference:
        hit = next((place for place, other in enumerate(left) if equal(other, one)), None)
        if hit is None:
            return False
        del left[hit]
    return not left


def sides(text: str) -> list[str]:
    """The sides of an equation, or of a chain of them; one for a text without "="."""
    return [one.strip() for one in parts(text, "=")]


def unknown_of(text: str) -> str:
    """The unknown of "x = 3" or "3 = x", without spaces; "" where there is none."""
    return _solved(text)[0]


def solution(text: str) -> str | None:
    """What an equation says an unknown, or a pair of them, to be; None for anything else."""
    _, side = _solved(text, tuples=True)
    return side if side != text else None


def _solved(text: str, tuples: bool = False) -> tuple[str, str]:
    """(unknown, value); an unknown of "" where the text is no such equation, the value then the whole text."""
    both = sides(text)
    if len(both) != 2 or not all(both):
        return "", text
    for unknown, value in (both, both[::-1]):
        if _UNKNOWN.fullmatch(unknown) and not _UNKNOWN.fullmatch(value):
            return unknown.replace(" ", ""), value
    if tuples and brackets(both[0]) == "()" and all(_UNKNOWN.fullmatch(one) for one in parts(both[0][1:-1])):
        return both[0].replace(" ", ""), both[1]
    return "", text


def _both_signs(text: str) -> tuple[str, str] | None:
    if text.startswith("±") and len(text) > 1 and "±" not in text[1:] and not re.search(r"[+\-,]", text[1:]):
        value = text[1:].strip()
        return value, f"-{value}"
    return None


def _interval(text: str) -> Interval | None:
    if brackets(text) in ("()", "[]", "[)", "(]"):
        ends = parts(text[1:-1])
        return Interval(_end(ends[0]), _end(ends[1]), text[0] + text[-1]) if len(ends) == 2 and all(ends) else None
    marks = _RELATION.findall(text)
    pieces = [piece.strip() for piece in _RELATION.split(text)]
    if len(marks) not in (1, 2) or not all(pieces) or "=" in text:
        return None
    if len(marks) == 1:
        left, right = pieces
        if _UNKNOWN.fullmatch(right) and not _UNKNOWN.fullmatch(left):
            left, right, marks = right, left, [_TURNED[marks[0]]]
        if not _UNKNOWN.fullmatch(left):
            return None
        closed = marks[0] in "≤≥"
        if marks[0] in ">≥":
            return Interval(right, "∞", "[)" if closed else "()", left)
        return Interval("-∞", right, "(]" if closed else "()", left)
    if marks[0] in ">≥" and marks[1] in ">≥":
        pieces, marks = pieces[::-1], [_TURNED[mark] for mark in marks[::-1]]
    if marks[0] not in "<≤" or marks[1] not in "<≤" or not _UNKNOWN.fullmatch(pieces[1]):
        return None
    return Interval(
        pieces[0], pieces[2], ("[" if marks[0] == "≤" else "(") + ("]" if marks[1] == "≤" else ")"), pieces[1]
    )


def _end(text: str) -> str:
    return text.replace("+∞", "∞").replace("- ∞", "-∞").strip()


def _once(items: Sequence[str], same: Same) -> list[str]:
    kept: list[str] = []
    for item in items:
        if not any(item == other or same(item, other) for other in kept):
            kept.append(item)
    return kept


def _matched(left: Sequence[str], right: Sequence[str], same: Same) -> bool:
    """Whether each of one side has a partner of its own on the other."""
    if len(left) != len(right):
        return False
    free = list(left)
    for wanted in right:
        hit = next((place for place, one in enumerate(free) if same(one, wanted)), None)
        if hit is None:
            return False
        del free[hit]
    return True
