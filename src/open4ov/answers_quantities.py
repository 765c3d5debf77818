"""Numbers with units: "1.5 km", "2小时30分钟", "$5", "百分之五十".

Two quantities agree when they measure the same thing and their values are equal in one unit, by the rule of
`answers_numbers`; between different units a decimal may also be the rounding of the other (16.67 m/s is 60 km/h).
A unit that only one of the two names is passed over and the numbers are compared as they stand, except for
percentages: 5 cm agrees with 5, 1.5 km not with 1500, 50% neither with 50 nor with 0.5. A Chinese classifier is no
unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from open4ov import answers_chinese, answers_numbers
from open4ov.answers_numbers import Number
from open4ov.answers_units import Unit, unit

LONGEST = 60
"""Characters of a quantity, at most: nothing longer is looked at."""

_CURRENCIES = (("US$", "USD"), ("$", "USD"), ("¥", "CNY"), ("€", "EUR"), ("£", "GBP"))
_FIRST_WORDS = "|".join(answers_numbers.FIRST_WORDS)
_BEGINS = re.compile(
    rf"[-+({{]? ?(?:[\d.{answers_chinese.CHARACTERS}兩萬億貳參負]|\\frac|(?:{_FIRST_WORDS})\b)",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"百分之(.+)")
_HALVED = re.compile(r"(.+?)个?半(.+)")
_PIECE = re.compile(
    rf"([\d.]+|[{answers_chinese.CHARACTERS}]+) ?([^\d\s.,{{}}^/·]+?)(?= |\d|[{answers_chinese.CHARACTERS}]|$)"
)


@dataclass(frozen=True)
class Quantity:
    """`unit`: None where none is written."""

    number: Number
    unit: Unit | None


@lru_cache(maxsize=4096)
def quantity(text: str) -> Quantity | None:
    """What the whole of a tidy text says, or None where it is no number with or without a unit."""
    text = text.strip()
    if len(text) > LONGEST:
        found = answers_numbers.number(text)
        return None if found is None else Quantity(found, None)
    for mark, name in _CURRENCIES:
        if text.startswith(mark):
            found = answers_numbers.number(text[len(mark) :])
            return None if found is None else Quantity(found, unit(name))
    if not text or not _BEGINS.match(text):
        return None
    if (plain := answers_numbers.number(text)) is not None:
        return Quantity(plain, None)
    if found := _PERCENT.fullmatch(text):
        inner = answers_numbers.number(found[1])
        return None if inner is None else Quantity(inner, unit("%"))
    return _with_unit(text) or _halved(text) or _compound(text)


def agree(given: Quantity, reference: Quantity) -> bool:
    """By the rule at the top of the file."""
    one, other = given.unit, reference.unit
    if one == other:
        return answers_numbers.equal(given.number, reference.number)
    if one is None or other is None:
        named = one or other
        return named is not None and not _percentage(named) and answers_numbers.equal(given.number, reference.number)
    if one.dims != other.dims:
        return False
    if _base(given) == _base(reference):
        return True
    return answers_numbers.rounds(given.number, (_base(reference) - one.offset) / one.factor) or (
        answers_numbers.rounds(reference.number, (_base(given) - other.offset) / other.factor)
    )


def split(text: str) -> tuple[str, Unit | None]:
    """A tidy text without the unit at its end, and the unit: for values that are no plain numbers ("4π cm")."""
    for found in re.finditer(r"(?<=[\d)}π]) ?(?=[a-zA-Z°%Ω\u3400-\u9fff][^{}\\]*$)", text):
        if found.end() > 0 and (named := unit(text[found.end() :])) is not None:
            spaced = found[0] or text[found.end()] in "°%Ω" or not text[found.end()].isascii()
            if spaced:
                return text[: found.start()].strip(), named
    return text, None


def _base(one: Quantity) -> Fraction:
    assert one.unit is not None
    return one.number.value * one.unit.factor + one.unit.offset


def _percentage(named: Unit) -> bool:
    return named.dims == (("percent", 1),)


def _with_unit(text: str) -> Quantity | None:
    """The longest number that leaves a unit or a classifier."""
    for place in range(len(text) - 1, 0, -1):
        rest = text[place:].strip()
        named = unit(rest)
        if named is None and rest not in answers_chinese.CLASSIFIERS:
            continue
        found = answers_numbers.number(text[:place])
        if found is not None:
            return Quantity(found, named)
    return None


def _halved(text: str) -> Quantity | None:
    """两个半小时, 三米半 is not read."""
    found = _HALVED.fullmatch(text)
    if not found or (named := unit(found[2].strip())) is None or (head := answers_numbers.number(found[1])) is None:
        return None
    return Quantity(Number(head.value + Fraction(1, 2)), named)


def _compound(text: str) -> Quantity | None:
    """Several quantities of one dimension, each smaller than the one before: 2 h 30 min."""
    pieces = list(_PIECE.finditer(text))
    if len(pieces) < 2 or "".join(piece[0] for piece in pieces).replace(" ", "") != text.replace(" ", ""):
        return None
    total, factor = Fraction(0), None
    dims: tuple[tuple[str, int], ...] = ()
    for piece in pieces:
        named, value = unit(piece[2].strip()), answers_numbers.number(piece[1])
        if named is None or value is None or named.offset:
            return None
        if factor is not None and (named.dims != dims or named.factor >= factor):
            return None
        dims, factor = named.dims, named.factor
        total += value.value * named.factor
    assert factor is not None
    return Quantity(Number(total), Unit(dims, Fraction(1)))
