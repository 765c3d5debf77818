"""What kind of answer a reference is, and what of it a verifier can compare (paper §4.1.1: "precise answer parsing").

A task needs an answer that is right in one way: a number, a name, a date. A sentence has too many.
"""

from __future__ import annotations

import re
from typing import Literal

from open4ov.answers import normalise, number, words

Kind = Literal["number", "number_unit", "yes_no", "date", "expression", "letter", "word", "phrase", "sentence", "empty"]

COMPARED: dict[Kind, str] = {
    "number": "as a number: digits, fractions, decimals, number words in English and Chinese",
    "number_unit": "number and unit together, as written; other spellings only as aliases or by the verifier's units",
    "yes_no": "one of two words; half of all guesses are right, so that it teaches little by itself",
    "date": "as written, and in the spellings that `spellings` gives as aliases",
    "expression": "as written after LaTeX dress is taken off, or by value where the verifier is symbolic",
    "letter": "the letter itself, where the question asks for one",
    "word": "letter by letter, without case, width, articles and outer punctuation",
    "phrase": "as a word: every word of it, in its order",
    "sentence": "not at all: it can be said in other words",
    "empty": "not at all",
}
"""What a verifier can say of each kind"""

VERIFIABLE: tuple[Kind, ...] = tuple(kind for kind, how in COMPARED.items() if not how.startswith("not at all"))

PHRASE_WORDS, PHRASE_CHARACTERS, WORD_CHARACTERS = 5, 10, 4
"""Most words of an English phrase, most characters of a Chinese one, and of a Chinese word"""

YES_NO = frozenset(
    ["yes", "no", "true", "false", "是", "否", "不是", "是的", "对", "错", "不对", "正确", "错误", "有", "没有", "能",
     "不能", "可以", "不可以", "会", "不会"]
)  # fmt: skip

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december")  # fmt: skip
_MONTH = rf"(?:{'|'.join(f'{m[:3]}(?:{m[3:]})?' if m[3:] else m for m in _MONTHS)})\.?"
_DATES = (
    re.compile(r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})"),
    re.compile(r"(?P<y>\d{4})年(?:(?P<m>\d{1,2})月)?(?:(?P<d>\d{1,2})[日号])?"),
    re.compile(r"(?P<m>\d{1,2})月(?P<d>\d{1,2})[日号]"),
    re.compile(rf"(?P<month>{_MONTH}) (?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:,? (?P<y>\d{{4}}))?"),
    re.compile(rf"(?P<d>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?(?P<month>{_MONTH})(?:,? (?P<y>\d{{4}}))?"),
    re.compile(rf"(?P<month>{_MONTH}),? (?P<y>\d{{4}})"),
)
_TIME = re.compile(
    r"\d{1,2}[:：]\d{2}(?:[:：]\d{2})?(?: ?[ap]\.?m\.?)?|\d{1,2} ?[ap]\.?m\.?|\d{1,2}[点时](?:\d{1,2}分?|半)?"
)
_AMOUNT = r"[+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?"
_UNIT = re.compile(
    rf"(?:[$€£¥]\s*{_AMOUNT}(?: ?(?:million|billion|thousand))?|{_AMOUNT}\s*(?P<unit>%|°\s*[cf]?|℃|[$€£¥]|[a-zµμω°]+"
    r"(?:[\^²³]?[23]?)(?:[/·* ][a-z]+(?:[\^²³]?-?[123]?)){0,2}|[\u3400-\u9fff]{1,5}))"
)
_EXPRESSION = re.compile(
    r"\\[a-z]+|[=<>≤≥≠±√π∞×÷^]|\d\s*[*/+]\s*[\w(]|[\w)]\s*[+*]\s*[\w(]|^[(\[].*,.*[)\]]$|^\{.*\}$|^-?\d*[a-z]$|\d+\s*:\s*\d+"
)
_ENDS = re.compile(r"[.!?。！？](?:\s|$)|[。！？；]")


def kind(answer: str, phrase_words: int = PHRASE_WORDS) -> Kind:
    """The kind of a reference answer. `phrase_words`: most words of a phrase; Chinese has twice as many characters."""
    raw, text = answer.strip(), normalise(answer)
    if not text:
        return "empty"
    if text in YES_NO:
        return "yes_no"
    if len(text) == 1 and text.isascii() and text.isalpha():
        return "letter"
    if number(text) is not None:
        return "number"
    if any(pattern.fullmatch(text) for pattern in _DATES) or _TIME.fullmatch(text):
        return "date"
    bare = raw.casefold().strip("$ ")
    unit = _UNIT.fullmatch(text) or _UNIT.fullmatch(bare)
    if unit and len(unit["unit"] or "") == 1 and unit["unit"] in "abcdefijknopqrtuvwxyz" and " " not in text:
        unit = None  # 4x is a product
    if unit:
        return "number_unit"
    parts = re.split(r"\s*[,，、;；]\s*", text)
    if len(parts) > 1 and all(number(normalise(part)) is not None for part in parts):
        return "expression"  # a list of numbers, compared in its order
    if _EXPRESSION.search(bare) or _EXPRESSION.search(text):
        return "expression"
    return _wording(raw, text, phrase_words)


def _wording(raw: str, text: str, phrase_words: int) -> Kind:
    count = len(words(text))
    chinese = len(re.findall(r"[\u3400-\u9fff]", text))
    if _ENDS.search(raw.rstrip(".。!！ ")) or raw.endswith(("?", "？")):
        return "sentence"
    if chinese:
        if re.search(r"[，；]", raw) or (raw.endswith("。") and chinese > WORD_CHARACTERS):
            return "sentence"
        most = 2 * phrase_words
        return "word" if chinese <= WORD_CHARACTERS and count == chinese else "phrase" if count <= most else "sentence"
    whole = len(text.split())
    return "word" if whole == 1 else "phrase" if whole <= phrase_words else "sentence"


def spellings(answer: str) -> list[str]:
    """Other ways to write a date that is complete (day and month, with or without a year); nothing for other kinds."""
    text = normalise(answer)
    for pattern in _DATES:
        if (found := pattern.fullmatch(text)) is None:
            continue
        parts = found.groupdict()
        day, year = parts.get("d"), parts.get("y")
        month = _month(parts.get("month")) or (int(parts["m"]) if parts.get("m") else None)
        if not day or not month or not 1 <= month <= 12 or not 1 <= int(day) <= 31:
            return []
        name, at = _MONTHS[month - 1].capitalize(), int(day)
        made = [f"{name} {at}", f"{at} {name}", f"{name[:3]} {at}", f"{at} {name[:3]}", f"{month}月{at}日"]
        if year:
            made = [
                f"{name} {at}, {year}",
                f"{at} {name} {year}",
                f"{name[:3]} {at}, {year}",
                f"{at} {name[:3]} {year}",
            ]
            made += [f"{year}-{month:02}-{at:02}", f"{year}/{month:02}/{at:02}", f"{year}年{month}月{at}日"]
        return [one for one in made if normalise(one) != text]
    return []


def _month(name: str | None) -> int | None:
    if not name:
        return None
    return next(place for place, month in enumerate(_MONTHS, start=1) if month.startswith(name.rstrip(".")[:3]))
