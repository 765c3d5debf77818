"""A typed model out of what a YAML file says, or one line for each fault, naming file, line and key."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import UnionType
from typing import Any, Generic, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from open4ov.errors import UserError, nearby, nearest
from open4ov.yaml_file import Loc

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Read(Generic[Model]):
    """What was made of a file's data. `model`: None where something is missing or of a wrong type; an unknown key
    counts as the known one that it is near to, or as not given. `faults`: one line each; `broken`: where the model's
    are."""

    model: Model | None
    faults: list[str]
    broken: list[Loc]
    data: dict[str, Any]
    """As the model was read from it"""


def parse(data: dict[str, Any], shape: type[Model], where: Callable[[Loc], str]) -> Model:
    """The model of `shape` in the data of a YAML file. `where` says of a place its file, line and key.

    Raises UserError, with a line for each, for keys that the model does not know (with the nearest one that it does),
    and for values that are missing or of wrong type or range.
    """
    found = look(data, shape, where)
    if found.faults or found.model is None:
        raise UserError("\n".join(found.faults))
    return found.model


def look(data: dict[str, Any], shape: type[Model], where: Callable[[Loc], str]) -> Read[Model]:
    """As `parse`, for who has further faults to tell: raises nothing."""
    unknown = list(_unknown(data, shape))
    faults = [f"{where(loc)}: unknown key '{loc[-1]}'{nearest(str(loc[-1]), known)}" for loc, known in unknown]
    data, meant = _as_meant(data, unknown) if unknown else (data, [])
    try:  # through JSON: strict about types, yet a list may fill a tuple
        return Read(shape.model_validate_json(json.dumps(data, default=str), strict=True), faults, [], data)
    except ValidationError as error:
        wrong = error.errors()
    sure = [item for item in wrong if not any(item["loc"][: len(loc)] == loc for loc in meant)]  # the rest are guesses
    faults += [f"{where(item['loc'])}: {_reason(dict(item))}" for item in sure]
    return Read(None, faults, [item["loc"] for item in wrong], data)


def _as_meant(data: dict[str, Any], unknown: list[tuple[Loc, list[str]]]) -> tuple[dict[str, Any], list[Loc]]:
    """The data with each unknown key under the name that it is near to, where that is not given too, else without it:
    that the right one is missing is no fault of its own. And the places of those that were so named."""
    data, meant = copy.deepcopy(data), list[Loc]()
    for loc, known in unknown:
        within: Any = data
        for part in loc[:-1]:
            within = within[part]
        value = within.pop(loc[-1])
        close = nearby(str(loc[-1]), known)
        if close is not None and close not in within:
            within[close] = value
            meant.append((*loc[:-1], close))
    return data, meant


def _unknown(data: object, shape: Any, loc: Loc = ()) -> Iterable[tuple[Loc, list[str]]]:
    """The keys no model knows: (place, the known keys there)."""
    if isinstance(data, list) and get_origin(shape) is list:
        for place, one in enumerate(cast("list[object]", data)):
            yield from _unknown(one, get_args(shape)[0], (*loc, place))
    if not isinstance(data, dict):
        return
    entries = cast("dict[str, object]", data)
    if get_origin(shape) is dict:
        for key, value in entries.items():
            yield from _unknown(value, get_args(shape)[1], (*loc, key))
    elif get_origin(shape) is UnionType:  # a section or nothing
        for one in get_args(shape):
            yield from _unknown(cast("object", data), one, loc)
    elif isinstance(shape, type) and issubclass(shape, BaseModel):
        for key, value in entries.items():
            if key not in shape.model_fields:
                yield (*loc, key), list(shape.model_fields)
            else:
                yield from _unknown(value, shape.model_fields[key].annotation, (*loc, key))


def _reason(error: dict[str, Any]) -> str:
    if error["type"] == "missing":
        return "is missing; add it"
    got: object = error["input"]
    kind = (
        "nothing"
        if got is None
        else f"{json.dumps(got, ensure_ascii=False)} ({_KINDS.get(type(got), type(got).__name__)})"
    )
    message = error["msg"].removeprefix("Input should be ").removeprefix("a valid ").removeprefix("an ")
    message = message.replace("dictionary", "mapping (`key: value` lines)").replace(
        "object", "mapping (`key: value` lines)"
    )
    return f"expected {message}, got {kind}"


_KINDS: dict[type, str] = {
    bool: "true/false",
    int: "whole number",
    float: "number",
    str: "text",
    list: "list",
    dict: "mapping",
}
