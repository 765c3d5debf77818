"""The flat form of a label tree: one row a label, each naming its parent, as a spreadsheet would hold it.

    version: 1
    labels:
      - {axis: domain, id: car, name: Automotive}
      - {axis: domain, id: car.signs, parent: car, name: Road signs, things: [...], abilities: [...]}

`nest` turns it into the nested form that `labels.load` checks. What only rows can get wrong is found here: a parent
that does not exist or is of the other axis, a row above itself (a cycle), and a third level (topics are generated).
"""

from __future__ import annotations

from typing import Any, cast

AXES = ("domain", "ability")


def is_flat(raw: object) -> bool:
    """Whether a parsed file is a flat tree: it has `labels` and neither axis."""
    return isinstance(raw, dict) and "labels" in raw and not set(AXES) & set(cast("dict[str, Any]", raw))


def nest(raw: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The nested form of a flat tree, and the faults of its rows, each naming its row (from 1)."""
    rows = raw["labels"]
    if not isinstance(rows, list):
        return {}, ["labels: must be a list of rows"]
    faults: list[str] = []
    known: dict[tuple[str, str], dict[str, Any]] = {}
    place: dict[tuple[str, str], int] = {}
    for number, row in enumerate(cast("list[Any]", rows), start=1):
        if not isinstance(row, dict) or not {"axis", "id", "name"} <= set(cast("dict[str, Any]", row)):
            faults.append(f"labels, row {number}: needs axis, id and name")
            continue
        entry = cast("dict[str, Any]", row)
        if entry["axis"] not in AXES:
            faults.append(f"labels, row {number}: the axis {entry['axis']!r} is none of {', '.join(AXES)}")
            continue
        key = str(entry["axis"]), str(entry["id"])
        if key in known:
            faults.append(f"labels, row {number}: {key[0]} {key[1]!r} is already in row {place[key]}")
            continue
        known[key], place[key] = entry, number
    for (axis, name), row in known.items():
        faults += _parent_faults(axis, name, row, known, place)
    if faults:
        return {}, faults
    tree: dict[str, Any] = {key: value for key, value in raw.items() if key != "labels"} | {axis: [] for axis in AXES}
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for (axis, name), row in known.items():
        if row.get("parent") is None:
            first[axis, name] = {**_bare(row), "l2": []}
            tree[axis].append(first[axis, name])
    for (axis, _), row in known.items():
        if row.get("parent") is not None:
            first[axis, str(row["parent"])]["l2"].append(_bare(row))
    return tree, []


def _parent_faults(
    axis: str,
    name: str,
    row: dict[str, Any],
    known: dict[tuple[str, str], dict[str, Any]],
    place: dict[tuple[str, str], int],
) -> list[str]:
    where = f"labels, row {place[axis, name]}: {axis} {name!r}"
    chain = [name]
    parent = row.get("parent")
    while parent is not None:
        parent = str(parent)
        if (axis, parent) not in known:
            other = AXES[1 - AXES.index(axis)]
            hint = f"; the {other} axis has one, and a parent is of the same axis" if (other, parent) in known else ""
            return [f"{where}: no label has the id {parent!r}, its parent{hint}"] if len(chain) == 1 else []
        if parent in chain:
            cycle = " -> ".join((*chain[chain.index(parent) :], parent))
            return [f"{where}: is above itself ({cycle})"]
        chain.append(parent)
        parent = known[axis, parent].get("parent")
    if len(chain) > 2:
        return [
            f"{where}: is on level {len(chain)} ({' -> '.join(chain)}); a tree has two levels, topics are generated"
        ]
    return []


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("axis", "parent")}
