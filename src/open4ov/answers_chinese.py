"""Chinese numerals: 二十一, 三万五, 1.2万, 一亿零三百万, 二〇二四, 三点一四, 三分之二, 壹佰.

Read as they are spoken: a last digit right after 百, 千, 万 or 亿 counts the next lower unit (三万五 is 35000), with 零
before it it counts ones (一千零五 is 1005).
"""

from __future__ import annotations

import re
from fractions import Fraction

from open4ov.answers_text import simplified

DIGITS = {**{digit: value for value, digit in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2}
_CHEQUES = str.maketrans("壹贰叁肆伍陆柒捌玖拾佰仟", "一二三四五六七八九十百千")
CHARACTERS = "零〇一二两三四五六七八九十百千万亿点分之又半负廿卅壹贰叁肆伍陆柒捌玖拾佰仟"
CLASSIFIERS = "个只辆块张条颗根本件位名朵杯匹头棵座架艘盏支把台片束串双对副层家扇粒枚瓶盒包"

_D = "[一二两三四五六七八九]"
_SECTION = re.compile(rf"(?:({_D})千)?(零)?(?:({_D})百)?(零)?(?:({_D})?(十))?(零)?({_D})?")
_NUMERAL = re.compile(rf"[{CHARACTERS}兩萬億點負貳參陸0-9.,]+")


def numeral(text: str) -> Fraction | None:
    """The number that a whole text without spaces stands for; None where it is none."""
    if not text or not _NUMERAL.fullmatch(text) or text.isascii():
        return None
    text = simplified(text).translate(_CHEQUES).replace("〇", "零").replace("廿", "二十").replace("卅", "三十")
    sign = -1 if text.startswith("负") else 1
    found = _unsigned(text.removeprefix("负"))
    return None if found is None else sign * found


def _unsigned(text: str) -> Fraction | None:
    if text == "半":
        return Fraction(1, 2)
    if "又" in text:
        whole, _, part = text.partition("又")
        left, right = _integer(whole), _unsigned(part) if "分之" in part else None
        return None if left is None or right is None or right >= 1 else left + right
    if "分之" in text:
        bottom, _, top = text.partition("分之")
        down, up = _integer(bottom), _integer(top)
        return None if not down or up is None else Fraction(up) / down
    if "点" in text:
        whole, _, decimals = text.partition("点")
        left = _integer(whole)
        if left is None or not decimals or any(digit not in DIGITS for digit in decimals):
            return None
        return left + Fraction(int("".join(str(DIGITS[digit]) for digit in decimals)), 10 ** len(decimals))
    return _integer(text)


def _integer(text: str) -> Fraction | None:
    """An integer, or a decimal number of a power of ten (1.2万)."""
    if not text:
        return None
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return Fraction(text)
    if len(text) > 1 and all(digit in DIGITS for digit in text) and "两" not in text:
        return Fraction(int("".join(str(DIGITS[digit]) for digit in text)))
    for unit, size in (("亿", 10**8), ("万", 10**4)):
        if unit in text:
            left, _, right = text.rpartition(unit) if unit == "亿" else text.partition(unit)
            head = _integer(left)
            if not head:
                return None
            if not right:
                return head * size
            tail = (
                DIGITS[right] * size // 10 if right in DIGITS and right != "零" else _integer(right.removeprefix("零"))
            )
            return None if tail is None or tail >= size else head * size + tail
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([十百千])", text):
        return Fraction(found[1]) * {"十": 10, "百": 100, "千": 1000}[found[2]]
    return _section(text)


def _section(text: str) -> Fraction | None:
    """Below ten thousand."""
    if text == "零":
        return Fraction(0)
    found = _SECTION.fullmatch(text)
    if not found or not text or text.endswith("零"):
        return None
    thousands, gap, hundreds, gap2, tens, ten, gap3, ones = found.groups()
    if text.startswith("零"):
        return None
    last = DIGITS[ones or "零"]
    spoken = not (gap or gap2 or gap3)
    if ones and spoken and not ten and (hundreds or thousands):
        last *= 10 if hundreds else 100
    return Fraction(
        1000 * DIGITS[thousands or "零"]
        + 100 * DIGITS[hundreds or "零"]
        + (10 * DIGITS[tens or "一"] if ten else 0)
        + last
    )
