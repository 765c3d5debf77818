"""How large counted repetitions make a regular expression, before anything is built of it.

`a{1000000000}` is twelve characters long, but whoever follows it counts through a billion places: seconds of work at
every token, and memory for each place. So the counts are read, in Rust's syntax, and what they come to has a limit.
"""

from __future__ import annotations

import re
from typing import Any

MOST = 10_000
"""Places that the counted repetitions of an expression may add to what is written"""
_FAR = 10**12
_COUNT = re.compile(r"\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}")
_NAMED = re.compile(r"\\[pPxuU]\{[^}]*\}")
_VERBOSE = re.compile(r"\(\?[A-Za-z]*x")


def too_many(expression: str) -> bool:
    """Whether its counted repetitions, those within one another multiplied, come to more than `MOST` places. So does
    what cannot be read here: the flag `x`, under which comments hide parentheses."""
    places, added = _Places(), 0
    at = 0
    while at < len(expression):
        sign = expression[at]
        if sign == "\\":
            named = _NAMED.match(expression, at)
            places.one()
            at = named.end() if named else at + 2
        elif sign == "[":
            places.one()
            at = _after_class(expression, at)
        elif sign == "{" and (found := _COUNT.match(expression, at)):
            added += places.times(max(map(_number, found.groups(default=""))))
            at = found.end()
            if added > MOST:
                return True
        elif sign == "(":
            if _VERBOSE.match(expression, at):
                return True
            places.open()
            at += 1
        else:
            if sign == ")":
                places.close()
            elif sign not in "?*+":
                places.one()
            at += 1
    return False


def schema_too_many(schema: Any) -> bool:
    """Whether that is so of any pattern in a JSON schema."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            keyed = part.get("patternProperties")
            patterns = [part.get("pattern"), *(keyed if isinstance(keyed, dict) else ())]
            if any(isinstance(pattern, str) and too_many(pattern) for pattern in patterns):
                return True
    return False


class _Places:
    """Of the groups that are open, outermost first: all places so far, and those of the last thing in it."""

    def __init__(self) -> None:
        self._groups = [[0, 0]]

    def one(self) -> None:
        self._groups[-1][0] += 1
        self._groups[-1][1] = 1

    def open(self) -> None:
        self._groups.append([0, 0])

    def close(self) -> None:
        if len(self._groups) > 1:
            places, _ = self._groups.pop()
            self._groups[-1][0] += places
            self._groups[-1][1] = places

    def times(self, count: int) -> int:
        """The last thing is repeated: how many places are added."""
        group = self._groups[-1]
        more = min(group[1] * max(count - 1, 0), _FAR)
        group[0] += more
        group[1] += more
        return more


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return min(int(digits or 0), _FAR) if len(digits) < 20 else _FAR


def _after_class(expression: str, at: int) -> int:
    """Where a class of characters that begins here has ended; classes may stand in it."""
    depth = 0
    while at < len(expression):
        sign = expression[at]
        if sign == "[":
            depth += 1
            at += 1
            if expression[at : at + 1] == "^":
                at += 1
            if expression[at : at + 1] == "]":  # the first one is a character
                at += 1
            continue
        depth -= sign == "]"
        at += 2 if sign == "\\" else 1
        if not depth:
            break
    return at
