"""Dates, times of day and days of the week, in English and Chinese.

A date of figures is read with the year first; with the year last only where the day cannot be a month (25/3/2024). What
leaves a part out (March 5; 3:30 without am or pm) agrees only with what leaves out the same.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

from open4ov import answers_chinese

When = tuple[str | int | None, ...]
"""("date", year, month, day), ("time", hour, minute, second) or ("weekday", 0 for Monday)"""

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTH = "|".join(f"{name[:3]}(?:{name[3:]})?" if name != "september" else "sept?(?:ember)?" for name in _MONTHS)
_N = "[0-9零〇一二两三四五六七八九十廿]+"
_WEEKDAYS = {
    **{f"{word}{han}": day for word in ("星期", "周", "礼拜") for day, han in enumerate("一二三四五六日")},
    **{f"{word}天": 6 for word in ("星期", "周", "礼拜")},
    **{form: day for day, name in enumerate(_DAYS) for form in (name, name[:3])},
    "tues": 1,
    "thur": 3,
    "thurs": 3,
}

_BRITISH = re.compile(rf"(?:the )?(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\.?(?:,? (\d{{4}}))?")
_AMERICAN = re.compile(rf"({_MONTH})\.? (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?")
_OF_YEAR = re.compile(rf"({_MONTH})\.?,? (\d{{4}})")
_YEAR_FIRST = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})")
_CHINESE = re.compile(rf"(?:({_N})年)?(?:({_N})月)?(?:({_N})[日号])?")
_CLOCK = re.compile(r"(\d{1,2})[:.](\d{2})(?::(\d{2}))? ?(a\.?m\.?|p\.?m\.?)?")
_HOUR = re.compile(r"(\d{1,2}) ?(a\.?m\.?|p\.?m\.?)")
_O_CLOCK = re.compile(r"([a-z]+|\d{1,2}) o'?clock")
_CHINESE_CLOCK = re.compile(rf"(凌晨|早上|上午|中午|下午|傍晚|晚上)?({_N})[点时](?:(半|整)|({_N})分?)?")


def when(text: str) -> When | None:
    """What a normalised text names, or None. A day that no calendar has is none."""
    if not text or len(text) > 30:
        return None
    if (day := _WEEKDAYS.get(text)) is not None:
        return ("weekday", day)
    if not any(character.isdigit() or character in "月年日号点时" for character in text) and "clock" not in text:
        return None
    return next((found for read in _READERS if (found := read(text)) is not None), None)


def _date(year: int | None, month: int | None, day: int | None) -> When | None:
    try:
        datetime.date(year or 2000, month or 1, day or 1)
    except ValueError:
        return None
    return ("date", year, month, day)


def _english(text: str) -> When | None:
    if found := _BRITISH.fullmatch(text):
        return _date(int(found[3]) if found[3] else None, _month(found[2]), int(found[1]))
    if found := _OF_YEAR.fullmatch(text):
        return _date(int(found[2]), _month(found[1]), None)
    if found := _AMERICAN.fullmatch(text):
        return _date(int(found[3]) if found[3] else None, _month(found[1]), int(found[2]))
    return None


def _month(name: str) -> int:
    return next(number for number, full in enumerate(_MONTHS, start=1) if full.startswith(name[:3]))


def _figures(text: str) -> When | None:
    if found := _YEAR_FIRST.fullmatch(text):
        return _date(int(found[1]), int(found[3]), int(found[4]))
    if found := _YEAR_LAST.fullmatch(text):
        first, second, year = int(found[1]), int(found[3]), int(found[4])
        if first > 12:
            return _date(year, second, first)
        if second > 12:
            return _date(year, first, second)
    return None


def _chinese(text: str) -> When | None:
    found = _CHINESE.fullmatch(text)
    if not found or not found[2] or not (found[1] or found[3]):
        return None  # a year or a day alone is a number with a unit
    parts = [_whole(one) for one in found.groups()]
    if any(one is None for one, written in zip(parts, found.groups(), strict=True) if written):
        return None
    return _date(*parts)


def _whole(text: str | None) -> int | None:
    if not text:
        return None
    value = int(text) if text.isdecimal() else answers_chinese.numeral(text)
    return None if value is None or value != int(value) else int(value)


def _clock(text: str) -> When | None:
    if found := _CLOCK.fullmatch(text):
        if text[len(found[1])] == "." and not found[4]:
            return None  # 3.30 is a number
        return _time(int(found[1]), int(found[2]), int(found[3] or 0), found[4])
    if found := _HOUR.fullmatch(text):
        return _time(int(found[1]), 0, 0, found[2])
    if found := _O_CLOCK.fullmatch(text):
        from open4ov.answers_numbers import words

        hour = int(found[1]) if found[1].isdigit() else words(found[1])
        return None if hour is None else _time(int(hour), 0, 0, None)
    return None


def _time(hour: int, minute: int, second: int, half: str | None) -> When | None:
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half.startswith("p") else 0)
    return ("time", hour, minute, second) if hour < 24 and minute < 60 and second < 60 else None


def _chinese_clock(text: str) -> When | None:
    found = _CHINESE_CLOCK.fullmatch(text)
    if not found or (hour := _whole(found[2])) is None:
        return None
    minute = 30 if found[3] == "半" else (_whole(found[4]) if found[4] else 0)
    if minute is None:
        return None
    if found[1] in ("下午", "傍晚", "晚上") or (found[1] == "中午" and hour < 11):
        hour += 12 if hour < 12 else 0
    elif found[1] in ("凌晨", "早上", "上午") and hour == 12:
        hour = 0
    return _time(hour, minute, 0, None)


_READERS: tuple[Callable[[str], When | None], ...] = (_english, _figures, _chinese, _clock, _chinese_clock)
