"""Units of answers, in English and Chinese: what quantity one measures, and how many SI units it is.

Only what is exact by definition is here. Units of other dimensions never agree; money, angles, revolutions, bytes and
percentages are dimensions of their own. Months and years are no number of days.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final


@dataclass(frozen=True)
class Unit:
    """`dims`: (base, power) in order; a value in it is `factor` × value + `offset` in the base units."""

    dims: tuple[tuple[str, int], ...]
    factor: Fraction
    offset: Fraction = Fraction(0)


def _unit(factor: str | int | Fraction, **dims: int) -> Unit:
    return Unit(tuple(sorted(dims.items())), Fraction(factor))


_INCH, _POUND, _G = Fraction("0.0254"), Fraction("0.45359237"), Fraction("9.80665")
_FORCE = {"kg": 1, "m": 1, "s": -2}
_ENERGY = {"kg": 1, "m": 2, "s": -2}

# what prefixes go with: (symbol, long names, Chinese name, unit)
_PREFIXED: Final = (
    ("m", "metre meter", "米", _unit(1, m=1)),
    ("g", "gram gramme", "克", _unit("0.001", kg=1)),
    ("s", "second", "秒", _unit(1, s=1)),
    ("L", "litre liter", "升", _unit("0.001", m=3)),
    ("l", "", "", _unit("0.001", m=3)),
    ("N", "newton", "牛", _unit(1, **_FORCE)),
    ("J", "joule", "焦", _unit(1, **_ENERGY)),
    ("W", "watt", "瓦", _unit(1, kg=1, m=2, s=-3)),
    ("Wh", "watt-hour", "瓦时", _unit(3600, **_ENERGY)),
    ("V", "volt", "伏", _unit(1, kg=1, m=2, s=-3, A=-1)),
    ("A", "ampere amp", "安", _unit(1, A=1)),
    ("Ω", "ohm", "欧", _unit(1, kg=1, m=2, s=-3, A=-2)),
    ("Pa", "pascal", "帕", _unit(1, kg=1, m=-1, s=-2)),
    ("Hz", "hertz", "赫兹", _unit(1, s=-1)),
    ("C", "coulomb", "库", _unit(1, A=1, s=1)),
    ("F", "farad", "法", _unit(1, A=2, s=4, kg=-1, m=-2)),
    ("mol", "mole", "摩尔", _unit(1, mol=1)),
    ("cal", "calorie", "卡", _unit("4.184", **_ENERGY)),
    ("B", "byte", "字节", _unit(8, bit=1)),
    ("bit", "bit", "比特", _unit(1, bit=1)),
    ("bar", "bar", "巴", _unit(100_000, kg=1, m=-1, s=-2)),
    ("Ah", "", "安时", _unit(3600, A=1, s=1)),
)
_PREFIXES: Final = (
    ("n", "nano", "纳", -9), ("µ", "micro", "微", -6), ("μ", "micro", "微", -6), ("u", "micro", "微", -6),
    ("m", "milli", "毫", -3), ("c", "centi", "厘", -2), ("d", "deci", "分", -1), ("h", "hecto", "百", 2),
    ("k", "kilo", "千", 3), ("M", "mega", "兆", 6), ("G", "giga", "吉", 9), ("T", "tera", "太", 12),
)  # fmt: skip
_BINARY: Final = (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40))

# names, each as it is written; English ones in the singular
_OTHERS: Final = (
    ("min minute mins 分钟 分", _unit(60, s=1)),
    ("h hr hrs hour 小时 个小时 时 钟头 个钟头", _unit(3600, s=1)),
    ("sec secs", _unit(1, s=1)),
    ("day 天 日", _unit(86_400, s=1)),
    ("week 周 星期 个星期", _unit(604_800, s=1)),
    ("month 月 个月", _unit(1, month=1)),
    ("year yr yrs 年 岁 周岁", _unit(12, month=1)),
    ("in inch inches 英寸", _unit(_INCH, m=1)),
    ("ft foot feet 英尺", _unit(12 * _INCH, m=1)),
    ("yd yard 码", _unit(36 * _INCH, m=1)),
    ("mi mile 英里", _unit(63_360 * _INCH, m=1)),
    ("nmi 海里", _unit(1852, m=1)),
    ("里", _unit(500, m=1)),
    ("公里", _unit(1000, m=1)),
    ("Å angstrom 埃", _unit(Fraction(1, 10**10), m=1)),
    ("公分", _unit("0.01", m=1)),
    ("lb lbs pound 磅", _unit(_POUND, kg=1)),
    ("oz ounce 盎司", _unit(_POUND / 16, kg=1)),
    ("t ton tonne 吨", _unit(1000, kg=1)),
    ("公斤", _unit(1, kg=1)),
    ("斤", _unit("0.5", kg=1)),
    ("两", _unit("0.05", kg=1)),
    ("ha hectare 公顷", _unit(10_000, m=2)),
    ("acre 英亩", _unit(4840 * (36 * _INCH) ** 2, m=2)),
    ("亩", _unit(Fraction(2000, 3), m=2)),
    ("gal gallon 加仑", _unit(231 * _INCH**3, m=3)),
    ("cc", _unit(Fraction(1, 10**6), m=3)),
    ("mph", _unit(63_360 * _INCH / 3600, m=1, s=-1)),
    ("kmh kph", _unit(Fraction(1000, 3600), m=1, s=-1)),
    ("kn knot 节", _unit(Fraction(1852, 3600), m=1, s=-1)),
    ("psi", _unit(_POUND * _G / _INCH**2, kg=1, m=-1, s=-2)),
    ("atm 大气压", _unit(101_325, kg=1, m=-1, s=-2)),
    ("hp 马力", _unit(550 * 12 * _INCH * _POUND * _G, kg=1, m=2, s=-3)),
    ("ohm 欧姆", _unit(1, kg=1, m=2, s=-3, A=-2)),
    ("伏特", _unit(1, kg=1, m=2, s=-3, A=-1)),
    ("安培", _unit(1, A=1)),
    ("瓦特", _unit(1, kg=1, m=2, s=-3)),
    ("牛顿", _unit(1, **_FORCE)),
    ("焦耳", _unit(1, **_ENERGY)),
    ("帕斯卡", _unit(1, kg=1, m=-1, s=-2)),
    ("rev revolution 转", _unit(1, turn=1)),
    ("rpm", _unit(Fraction(1, 60), turn=1, s=-1)),
    ("° deg degree 度", _unit(1, degree=1)),
    ("rad radian 弧度", _unit(1, radian=1)),
    ("K kelvin 开尔文", _unit(1, K=1)),
    ("°C ℃ 摄氏度 celsius", Unit((("K", 1),), Fraction(1), Fraction("273.15"))),
    ("°F ℉ 华氏度 fahrenheit", Unit((("K", 1),), Fraction(5, 9), Fraction("459.67") * 5 / 9)),
    ("% percent 个百分点", _unit(1, percent=1)),
    ("‰ permille", _unit("0.1", percent=1)),
    ("USD US$ dollar 美元", _unit(1, USD=1)),
    ("cent ¢ 美分", _unit("0.01", USD=1)),
    ("EUR € euro 欧元", _unit(1, EUR=1)),
    ("GBP £ 英镑", _unit(1, GBP=1)),
    ("JPY yen 日元", _unit(1, JPY=1)),
    ("CNY RMB ¥ yuan 元 块 块钱 元钱 人民币", _unit(1, CNY=1)),
    ("角 毛 毛钱", _unit("0.1", CNY=1)),
    ("dB decibel 分贝", _unit(1, dB=1)),
    ("px pixel 像素", _unit(1, px=1)),
    ("unit 单位 个单位", _unit(1, unit=1)),
)
_NONE: Final = Unit((), Fraction(1))
_TOKEN = re.compile(r"\s*(?:([/·*×])|(per\b|每)|(square|cubic|sq|cu|平方|立方)\.?|([^\s/·*×^{}\d每]+)|(\^?\{?-?\d\}?))")


@lru_cache(maxsize=1)
def _table() -> tuple[dict[str, Unit], dict[str, Unit]]:
    """Symbols and Chinese names, whose case counts; and English names, small."""
    exact: dict[str, Unit] = {}
    names: dict[str, Unit] = {}
    for symbol, long, chinese, unit in _PREFIXED:
        for mark, prefix, han, power in (("", "", "", 0), *_PREFIXES):
            scaled = Unit(unit.dims, unit.factor * Fraction(10) ** power)
            exact.setdefault(mark + symbol, scaled)
            if chinese:
                exact.setdefault(han + chinese, scaled)
            for name in long.split():
                names[prefix + name] = names[prefix + name + "s"] = scaled
    for mark, power in _BINARY:
        exact[f"{mark}B"] = _unit(8 * 2**power, bit=1)
    for loose, strict in (("KB", "kB"), ("KM", "km"), ("Km", "km"), ("KG", "kg"), ("Kg", "kg"), ("ML", "mL")):
        exact[loose] = exact[strict]
    exact |= {"kw": exact["kW"], "hz": exact["Hz"], "kwh": exact["kWh"]}
    for spelt, unit in _OTHERS:
        for name in spelt.split():
            exact[name] = unit  # over a prefix that nobody means: "min" is no milli-inch, "cc" no centi-coulomb
            if name.isascii() and name.isalpha() and len(name) > 2 and name.islower():
                names[name] = names[name + "s"] = unit
    return exact, names


@lru_cache(maxsize=4096)
def unit(text: str) -> Unit | None:
    """The unit that the whole of a tidy text names: "km/h", "kg·m/s^2", "square metres", "米/秒"; else None."""
    text = text.strip().replace("° ", "°")
    if not text or len(text) > 40:
        return None
    if (found := _one(text)) is not None:
        return found
    result, side, power, position = _NONE, 1, 1, 0
    last: Unit | None = None
    while position < len(text):
        token = _TOKEN.match(text, position)
        if not token or token.end() == position:
            return None
        position = token.end()
        sign, per, raised, name, exponent = token.groups()
        if sign or per:
            if (per and last is None) or (last is None and sign):
                return None
            side = -1 if per or sign == "/" else side
            last = None
        elif raised:
            power = 3 if raised in ("cubic", "cu", "立方") else 2
        elif name:
            one = _one(name) or _per(name)
            if one is None or one.offset:
                return None
            last = _raised(one, side * power)
            result, power = _times(result, last), 1
        else:
            digits = int(exponent.strip("^{} "))
            if last is None or (exponent[0] != "^" and (text[token.start() : token.end()] != exponent or digits < 2)):
                return None  # "m 3" is not m^3
            result = _times(result, _raised(last, digits - 1))
    return result if result.dims and last is not None and power == 1 else None


def _one(name: str) -> Unit | None:
    exact, names = _table()
    return exact.get(name) or names.get(name.casefold())


def _per(name: str) -> Unit | None:
    """平方米, 立方厘米: a power and a unit in one word."""
    for power, word in ((2, "平方"), (3, "立方")):
        if name.startswith(word) and (one := _one(name[2:])):
            return _raised(one, power)
    return None


def _raised(one: Unit, power: int) -> Unit:
    return Unit(tuple((base, times * power) for base, times in one.dims), one.factor**power)


def _times(left: Unit, right: Unit) -> Unit:
    dims = dict(left.dims)
    for base, power in right.dims:
        dims[base] = dims.get(base, 0) + power
    return Unit(tuple(sorted((base, power) for base, power in dims.items() if power)), left.factor * right.factor)
