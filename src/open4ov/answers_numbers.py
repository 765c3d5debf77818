"""Numbers as answers write them: thousands, powers of ten, fractions, mixed numbers, words in English and Chinese.

Two numbers are equal exactly, with one exception: a decimal of three figures or more equals a fraction or an
irrational number that it is the rounding of, to its own last place (0.333 is 1/3; 0.33, 0.334 and 0.3333334 are not).
Two decimals are equal or not: 3.14 is not 3.1416.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from open4ov import answers_chinese

ROUNDED_FIGURES = 3
"""A decimal of fewer figures is no rounding of anything."""
LONGEST = 200
"""Characters of a number, at most"""

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {**{word: i for i, word in enumerate(_UNITS)}, **{word: 10 * i for i, word in enumerate(_TENS, start=2)}}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
          "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10,
          "tenths": 10}  # fmt: skip

FIRST_WORDS = ("minus", "negative", "a", "half", "dozen", *_SMALL)
"""What a number in English words can begin with."""

_PLAIN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+")
_SCIENTIFIC = re.compile(r"(?:(.+?) ?[×*x·] ?)?10 ?\^ ?(?:\{ ?([+-]?\d{1,4}) ?\}|([+-]?\d{1,4}))")
_EXPONENT = re.compile(r"(\d+\.\d*|\d*\.\d+|\d+(?=[eE][+-]))[eE]([+-]?\d{1,3})")
_POWER = re.compile(r"(\d{1,4}) ?\^ ?(?:\{ ?(-?\d{1,2}) ?\}|(-?\d{1,2}))")
_LATEX_FRACTION = re.compile(r"(.*?)\\frac ?(?:\{([^{}]*)\} ?\{([^{}]*)\}|(\d) ?(\d))")
_SLASH = re.compile(r"(?:(\d+) )?([+-]?[\d.,]+) ?/ ?([\d.,]+)")


@dataclass(frozen=True)
class Number:
    """`places`: decimals that are written, where it is a decimal (1.50 has 2, 1.5e3 has -2), else None; `figures`:
    how many figures are written then."""

    value: Fraction
    places: int | None = None
    figures: int = 0


def number(text: str) -> Number | None:
    """The number that the whole of a tidy text stands for (`answers_text.tidy`), or None."""
    text = text.strip()
    if not text or len(text) > LONGEST:
        return None
    sign = 1
    if text[0] in "+-":
        sign, text = (-1 if text[0] == "-" else 1), text[1:].strip()
        if text[:1] in ("+", "-"):
            return None
    while len(text) > 2 and text[0] in "({" and text[-1] == {"(": ")", "{": "}"}[text[0]]:
        text = text[1:-1].strip()
        if text[:1] == "-":
            sign, text = -sign, text[1:].strip()
    found = _unsigned(text) if text else None
    if found is None or sign == 1:
        return found
    return Number(-found.value, found.places, found.figures)


def equal(left: Number, right: Number) -> bool:
    """By the rule at the top of the file."""
    if left.value == right.value:
        return True
    if (left.places is None) == (right.places is None):
        return False
    return rounds(left, right.value) if left.places is not None else rounds(right, left.value)


def rounds(decimal: Number, value: Fraction | float) -> bool:
    """Whether a decimal is the rounding of a value to its last place, of figures enough to say so."""
    if decimal.places is None or decimal.figures < ROUNDED_FIGURES:
        return False
    return 2 * abs(Fraction(value) - decimal.value) <= Fraction(10) ** -decimal.places


def words(text: str) -> Fraction | None:
    """English number words: "two thousand three hundred and five", "minus four"."""
    parts = text.casefold().replace("-", " ").split()
    if parts[:1] in (["minus"], ["negative"]):
        found = _spoken(parts[1:])
        return None if found is None else -found
    return _spoken(parts)


def _unsigned(text: str) -> Number | None:
    if not text[0].isdigit() and text[0] not in ".\\":
        found = words(text) if text.isascii() else answers_chinese.numeral(text.replace(" ", ""))
        if found is None and text.isascii():
            found = _parts(text.casefold().split())
        return None if found is None else Number(found)
    if _PLAIN.fullmatch(text):
        return _decimal(text.replace(",", "").replace(" ", ""))
    if found := _EXPONENT.fullmatch(text):
        return _shifted(_decimal(found[1]), int(found[2]))
    if found := _SCIENTIFIC.fullmatch(text):
        head = number(found[1]) if found[1] else Number(Fraction(1))
        return None if head is None else _shifted(head, int(found[2] or found[3]))
    if found := _POWER.fullmatch(text):
        base, power = int(found[1]), int(found[2] or found[3])
        return Number(Fraction(base) ** power) if base or power > 0 else None
    if found := _SLASH.fullmatch(text):
        return _ratio(found[1], found[2], found[3])
    if found := _LATEX_FRACTION.fullmatch(text):
        top, bottom = (found[2], found[3]) if found[2] is not None else (found[4], found[5])
        return _ratio(found[1].strip(), top, bottom)
    chinese = None if text.isascii() else answers_chinese.numeral(text.replace(" ", ""))
    return None if chinese is None else Number(chinese)


def _ratio(whole: str | None, top: str, bottom: str) -> Number | None:
    """A fraction, of numbers, behind a whole number where there is one."""
    up, down = number(top), number(bottom)
    if up is None or down is None or down.value == 0:
        return None
    value = up.value / down.value
    if whole:
        if not whole.isdigit() or not 0 <= value < 1:
            return None
        value += int(whole)
    return Number(value)


def _decimal(digits: str) -> Number:
    whole, point, decimals = digits.partition(".")
    value = Fraction(digits.rstrip(".") if whole else f"0{digits}")
    return Number(value, len(decimals), len((whole + decimals).lstrip("0"))) if point and decimals else Number(value)


def _shifted(head: Number, power: int) -> Number:
    places = None if head.places is None else head.places - power
    return Number(head.value * Fraction(10) ** power, places, head.figures)


def _spoken(parts: list[str]) -> Fraction | None:
    if "point" in parts:
        place = parts.index("point")
        whole, decimals = _spoken(parts[:place]), [_SMALL.get(word, 10) for word in parts[place + 1 :]]
        if whole is None or not decimals or max(decimals) > 9:
            return None
        return whole + Fraction(int("".join(map(str, decimals))), 10 ** len(decimals))
    total = group = 0
    last = 10**15
    fresh = True  # whether a group (below a thousand) begins here
    for place, word in enumerate(parts):
        if word == "and" and 0 < place < len(parts) - 1 and not fresh:
            continue
        if word in _LARGE and group and _LARGE[word] < last:
            total, last, group, fresh = total + group * _LARGE[word], _LARGE[word], 0, False
        elif word == "hundred" and 0 < group < 100:
            group *= 100
        elif (value := _SMALL.get(word)) is not None and _fits(group, value, len(parts)):
            group, fresh = group + value, False
        elif word == "a" and place == 0 and len(parts) > 1 and (parts[1] in _LARGE or parts[1] == "hundred"):
            group, fresh = 1, False
        else:
            return None
    return Fraction(total + group) if parts else None


def _fits(group: int, value: int, words: int) -> bool:
    """Whether a word may follow in its group: ones after tens, anything below a hundred after hundreds."""
    if value == 0:
        return words == 1
    rest = group % 100
    return rest == 0 or (rest >= 20 and rest % 10 == 0 and value < 10)


def _parts(words_: list[str]) -> Fraction | None:
    """ "half", "one third", "three quarters", "a dozen"."""
    if words_[-1:] == ["dozen"] and len(words_) == 2:
        count = 1 if words_[0] == "a" else _SMALL.get(words_[0])
        return None if not count else Fraction(12 * count)
    if words_ in (["half"], ["a", "half"], ["dozen"]):
        return Fraction(12) if words_ == ["dozen"] else Fraction(1, 2)
    if len(words_) == 2 and words_[1] in _PARTS:
        count = 1 if words_[0] == "a" else _SMALL.get(words_[0])
        return None if not count or count >= _PARTS[words_[1]] else Fraction(count, _PARTS[words_[1]])
    return None
