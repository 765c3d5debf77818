"""What configuration files say, checked key by key: a value of the wrong kind is named here, not where it crashes."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from open4ov.errors import UserError


def check_fields(config: Any, prefix: str, may_be_zero: Collection[str] = ()) -> None:
    """Checks the fields of a dataclass by their annotated types: int (at least 1), float (above 0), bool, and tuples of
    ints. Fields of other types are left alone. `prefix` stands before a field's name, as in "text_config.".

    Raises UserError naming every field that is wrong.
    """
    kinds = get_type_hints(type(config))
    faults = [
        f"{prefix}{f.name} must be {needed}, not {getattr(config, f.name)!r}"
        for f in fields(config)
        if (needed := unmet(getattr(config, f.name), kinds[f.name], f.name in may_be_zero))
    ]
    if faults:
        raise UserError("; ".join(faults))


def unmet(value: object, kind: object, zero: bool = False) -> str:
    """What a value of `kind` must be, in words, when this one is not; otherwise nothing. `zero`: 0 is fine too."""
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is int:
        return "" if _whole(value, 1 - zero) else f"a whole number of at least {1 - zero}"
    if kind is float:
        fine = _number(value) and (value > 0 or (zero and value == 0))  # pyright: ignore[reportOperatorIssue]
        return "" if fine else f"a number {'of at least' if zero else 'above'} 0"
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        count = None if Ellipsis in inner else len(inner)
        fine = isinstance(value, tuple) and count in (None, len(value)) and all(_whole(x, 0) for x in value)
        form = "tuple" if isinstance(value, list) else "list"  # lists of a file are tuples by now
        return "" if fine else f"a {form} of {f'{count} ' if count else ''}whole numbers"
    return ""


def whole(raw: Mapping[str, Any], key: str, where: str, default: int | None = None, least: int = 1) -> int:
    """A whole number of a file; `default` where it is missing or null."""
    value = _given(raw, key, where, default)
    if not _whole(value, least):
        raise UserError(f"{where}: {key} must be a whole number of at least {least}, not {value!r}")
    return value


def positive(raw: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    """A number above 0 of a file."""
    value = _given(raw, key, where, default)
    if needed := unmet(value, float):
        raise UserError(f"{where}: {key} must be {needed}, not {value!r}")
    return float(value)


def three(raw: Mapping[str, Any], key: str, where: str, above_zero: bool = False) -> tuple[float, float, float]:
    """A list of three numbers, one for each colour."""
    values = _given(raw, key, where, None)
    listed = isinstance(values, list | tuple) and len(values) == 3 and all(map(_number, values))
    if not listed or (above_zero and min(values) <= 0):
        raise UserError(f"{where}: {key} must be three numbers{' above 0' * above_zero}, not {values!r}")
    red, green, blue = values
    return float(red), float(green), float(blue)


def limits(raw: Mapping[str, Any], where: str, default: tuple[int, int] | None = None) -> tuple[int, int]:
    """The least and the most pixels: `size`, where `min_pixels` and `max_pixels` do not say otherwise."""
    size = {} if raw.get("size") is None else raw["size"]
    low: Any = default[0] if default else None
    high: Any = default[1] if default else None
    if isinstance(size, Mapping):
        low, high = size.get("shortest_edge", low), size.get("longest_edge", high)
    low = low if raw.get("min_pixels") is None else raw["min_pixels"]
    high = high if raw.get("max_pixels") is None else raw["max_pixels"]
    if not isinstance(size, Mapping) or not (_whole(low, 1) and _whole(high, low)):
        raise UserError(
            f"{where}: size must give shortest_edge and longest_edge, 0 < shortest <= longest (pixels); it is {size!r}"
            + "".join(f", {key} {raw[key]!r}" for key in ("min_pixels", "max_pixels") if raw.get(key) is not None)
        )
    return low, high


def _given(raw: Mapping[str, Any], key: str, where: str, default: Any) -> Any:
    value = default if raw.get(key) is None else raw[key]
    if value is None:
        raise UserError(f"{where}: missing {key}")
    return value


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
