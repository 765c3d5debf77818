"""What has changed between two tries of a stage, said in the recipe's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

Facts = Mapping[str, Any]
"""All that decides a stage's output, as `graph.py` makes its key of it."""

SHOWN = 6
"""Changes that are told in full."""


FILES = "files"
"""Key of a config's digests of files: by the option that names them, or what they are called"""


def told(before: Facts, after: Facts) -> str:
    """`sft.knowledge.learning_rate was 0.001, is 0.0005; its input data is another`; empty when nothing differs.

    A stage's config is shaped as the recipe is, beside its `FILES`.
    """
    now = cast("dict[str, Any]", json.loads(json.dumps(after)))  # as what was kept: no tuples
    found: list[str] = []
    for name in ("open4ov", "seed"):
        if before.get(name) != now.get(name):
            found.append(f"{name} was {before.get(name)}, is {now.get(name)}")
    old, new = _flat(before.get("config") or {}), _flat(now.get("config") or {})
    for path in [*old, *(path for path in new if path not in old)]:
        if old.get(path, _ABSENT) != new.get(path, _ABSENT):
            found.append(_change(path, old.get(path, _ABSENT), new.get(path, _ABSENT)))
    one: dict[str, Any] = before.get("inputs") or {}
    other: dict[str, Any] = now.get("inputs") or {}
    found += [f"its input {name} is another" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


_ABSENT = object()


def _change(path: str, old: object, new: object) -> str:
    if path.startswith(f"{FILES}."):
        return f"the files of {path.removeprefix(f'{FILES}.')} have changed"
    return f"{path} was {_shown(old)}, is {_shown(new)}"


def _shown(value: object) -> str:
    return "not there" if value is _ABSENT else "empty" if value is None else f"{value}"


def _flat(value: object, path: str = "") -> dict[str, object]:
    """Every value below a mapping by its dotted path; lists are values, an empty mapping has none."""
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, object] = {}
    for key, below in cast("Mapping[str, object]", value).items():
        found |= _flat(below, f"{path}.{key}" if path else str(key))
    return found
