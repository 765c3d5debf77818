"""A typed model out of what a YAML file says, or one line for each fault, naming file, line and key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from open4ov.errors import UserError, nearest
from open4ov.yaml_file import Loc

Model = TypeVar("Model", bound=BaseModel)


def parse(data: dict[str, Any], shape: type[Model], where: Callable[[Loc], str]) -> Model:
    """The model of `shape` in the data of a YAML file. `where` says of a place its file, line and key.

    Raises UserError for keys that the model does not know (with the nearest one that it does), and for values of wrong
    type or range.
    """
    unknown = [
        f"{where(loc)}: unknown key '{loc[-1]}'{nearest(str(loc[-1]), known)}" for loc, known in _unknown(data, shape)
    ]
    if unknown:
        raise UserError("\n".join(unknown))
    try:  # through JSON: strict about types, yet a list may fill a tuple
        return shape.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise UserError("\n".join(f"{where(item['loc'])}: {_reason(dict(item))}" for item in error.errors())) from None


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
