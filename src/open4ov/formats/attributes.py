"""What a row says of the two responses of a preference pair, attribute by attribute (paper §4.1.2: length, fluency,
politeness, domain compliance, or whatever a set's makers have called them)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from open4ov.formats.row import RowError

Value = str | dict[str, float]
"""`chosen`, `rejected` or `equal`: which is better; or the score of each"""
_WORDS = {"chosen": "chosen", "rejected": "rejected", "equal": "equal", "tie": "equal", "same": "equal"}


def attributes(row: Mapping[str, Any]) -> tuple[dict[str, Value], set[str]]:
    """The attributes of a row's pair, and the fields that they were in: `attributes` (attribute -> one of the words,
    two scores as a list or an object, or their difference), and `NAME_chosen` with `NAME_rejected` or
    `chosen_NAME` with `rejected_NAME`, both numbers. Raises RowError for what is none of these."""
    found: dict[str, Value] = {}
    used: set[str] = set()
    given = row.get("attributes")
    if isinstance(given, dict):
        used.add("attributes")
        for name, value in cast("dict[str, Any]", given).items():
            if value is not None:
                found[str(name)] = _value(str(name), value)
    elif given is not None:
        raise RowError("its attributes are no object of attribute: value")
    for key in row:
        for name, other in ((key.removesuffix("_chosen"), "{}_rejected"), (key.removeprefix("chosen_"), "rejected_{}")):
            if name != key and name and _number(row[key]) and _number(row.get(other.format(name))):
                found.setdefault(name, {"chosen": float(row[key]), "rejected": float(row[other.format(name)])})
                used |= {key, other.format(name)}
    return found, used


def _value(name: str, value: Any) -> Value:
    if isinstance(value, str):
        if (word := value.strip().lower()) in _WORDS:
            return _WORDS[word]
    elif _number(value):
        return "chosen" if value > 0 else "rejected" if value < 0 else "equal"
    scores: list[Any] = []
    if isinstance(value, list):
        scores = cast("list[Any]", value)
    elif isinstance(value, dict):
        scores = [cast("dict[str, Any]", value).get(which) for which in ("chosen", "rejected")]
    if len(scores) == 2 and all(map(_number, scores)):
        return {"chosen": float(scores[0]), "rejected": float(scores[1])}
    raise RowError(
        f"attributes.{name}: {str(cast('object', value))[:60]!r} is neither chosen, rejected or equal, "
        "nor a score for each response"
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
