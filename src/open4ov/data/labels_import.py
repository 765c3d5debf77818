"""The import of a reviewed CSV: the next label tree, or every contradiction with its row (see labels_review.py).

Ids that go away are kept in the tree's `retired`, so that data which refers to them can still be read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from open4ov.data.labels import AXES, L1, L2, OTHERS, LabelError, LabelTree, check_successor, checked
from open4ov.data.labels_review import ACTIONS, SAFE
from open4ov.sample import Axis


def apply(tree: LabelTree, file: Path) -> LabelTree:
    """The tree that a reviewed CSV makes of `tree`, with the next version if its ids changed.

    Raises `LabelError` with every contradiction, each as `file, row N: ...` (the header is row 1).
    """
    edits, faults = _read(file)
    faults += list(_faults(tree, edits))
    if faults:
        raise LabelError("\n".join(f"{file}, {fault}" for fault in faults))
    new = _edited(tree, edits, str(file))
    check_successor(tree, new, str(file))
    return new


@dataclass(frozen=True)
class _Edit:
    row: int
    cells: dict[str, str]

    @property
    def key(self) -> tuple[str, str]:
        return self.cells["axis"], self.cells["id"]

    @property
    def action(self) -> str:
        return self.cells["action"].casefold()

    @property
    def target(self) -> str:
        return self.cells["target"]


def _read(file: Path) -> tuple[list[_Edit], list[str]]:
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{file}: cannot be read: {error}") from None
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        lacking = sorted({"axis", "l1", "id", "name", "action", "target"} - set(reader.fieldnames or ()))
        if lacking:
            raise LabelError(f"{file}, row 1: the columns {', '.join(lacking)} are missing; edit cells only")
        raw = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise LabelError(f"{file}: is not CSV: {error}") from None
    edits: list[_Edit] = []
    faults: list[str] = []
    for number, (_, row) in enumerate(raw, start=2):
        cells = cast("dict[str | None, Any]", row)
        if None in cells or None in cells.values():
            faults.append(f"row {number}: has more or fewer cells than the header")
            continue
        edits.append(_Edit(number, {str(name): _plain(str(value)) for name, value in cells.items()}))
    return edits, faults


def _faults(tree: LabelTree, edits: Sequence[_Edit]) -> Iterator[str]:
    """Each contradiction, with its row."""
    present = {(axis, l2.id): (l1.id, l2.name) for axis in AXES for l1 in tree.axis(axis) for l2 in l1.l2}
    first: dict[tuple[str, str], _Edit] = {}
    for edit in edits:
        if edit.cells["axis"] not in AXES:
            yield f"row {edit.row}: the axis {edit.cells['axis']!r} is none of {', '.join(AXES)}"
        elif edit.key in first:
            yield f"row {edit.row}: {edit.key[1]!r} is in row {first[edit.key].row} already; keep one of them"
        else:
            first[edit.key] = edit
    for key, edit in first.items():
        yield from (f"row {edit.row}: {fault}" for fault in _row_faults(tree, key, edit, first, present))
    for axis, name in present:
        if (axis, name) not in first:
            yield f"row {len(edits) + 2}: {axis} {name!r} has no row; to remove a label, write drop in its row"
    yield from _clashes(tree, first)


def _clashes(tree: LabelTree, first: Mapping[tuple[str, str], _Edit]) -> Iterator[str]:
    """Two rows that would give one name or id, an id that was retired, and L1s that nothing is left of."""
    names: dict[tuple[str, str], int] = {(axis, l1.name.casefold()): 0 for axis in AXES for l1 in tree.axis(axis)}
    ids: dict[tuple[str, str], int] = {}
    filled: set[tuple[str, str]] = set()
    last: dict[tuple[str, str], int] = {}
    for (axis, name), edit in first.items():
        last[axis, edit.cells["l1"]] = edit.row
        if edit.action not in ("keep", "rename", "move"):
            continue
        filled.add((axis, edit.target if edit.action == "move" else edit.cells["l1"]))
        shown = (edit.target if edit.action == "rename" else edit.cells["name"]).casefold()
        place = _moved(name, edit.target) if edit.action == "move" else name
        for what, value, seen in (("name", shown, names), ("id", place, ids)):
            if (axis, value) in seen:
                whose = f"that of row {seen[axis, value]}" if seen[axis, value] else "an L1's"
                yield f"row {edit.row}: the {what} {value!r} would be {whose} too; merge, rename or leave one"
            seen.setdefault((axis, value), edit.row)
        if f"{axis}:{place}" in tree.retired:
            yield f"row {edit.row}: the id {place!r} was retired, and a retired id is never used again"
    for axis in AXES:
        for l1 in tree.axis(axis):
            if (axis, l1.id) not in filled and (axis, l1.id) in last:
                yield f"row {last[axis, l1.id]}: nothing would be left under the {axis} L1 {l1.id!r}; keep a label"


def _row_faults(
    tree: LabelTree,
    key: tuple[str, str],
    edit: _Edit,
    first: Mapping[tuple[str, str], _Edit],
    present: Mapping[tuple[str, str], tuple[str, str]],
) -> Iterator[str]:
    axis, name = key
    tops = {l1.id for l1 in tree.axis(cast(Axis, axis))}
    l1 = edit.cells["l1"]
    if key in present:
        if present[key][0] != l1:
            yield f"{name!r} is under {present[key][0]!r}, not {l1!r}; to move it, write move and the new L1 as target"
        if present[key][1] != edit.cells["name"]:
            yield f"{name!r} is called {present[key][1]!r}; to rename it, write rename and the new name as target"
    elif l1 not in tops:
        yield f"no {axis} L1 has the id {l1!r}"
    elif edit.action in ("keep", "rename", "move", "merge"):
        abilities = _listed(edit, "abilities")
        unknown = sorted(set(abilities) - {ability.id for ability in tree.ability})
        if axis == "domain" and unknown:
            yield f"abilities: no ability L1 has the id {unknown[0]!r}"
        elif axis == "domain" and not abilities:
            yield "abilities: is empty; name the ability L1 ids that make sense for it"
        if not name.startswith(f"{l1}."):
            yield f"the id {name!r} must start with {l1 + '.'!r}, its L1"
    if edit.action == "":
        yield f"{name!r} has no action; write one of {', '.join(ACTIONS)}"
    elif edit.action not in ACTIONS:
        yield f"unknown action {edit.cells['action']!r}; the actions are {', '.join(ACTIONS)}"
    elif edit.action in ("keep", "drop") and edit.target:
        yield f"{edit.action} takes no target, and there is {edit.target!r}"
    elif edit.action not in ("keep", "drop") and not edit.target:
        what = {"merge": "the id of a label", "rename": "the new name", "move": "the id of an L1"}[edit.action]
        yield f"{edit.action} needs a target: {what}"
    elif edit.action == "merge":
        into = first.get((axis, edit.target))
        if edit.target == name:
            yield f"{name!r} cannot be merged into itself"
        elif into is None:
            yield f"no row of the {axis} axis has the id {edit.target!r}"
        elif into.action in ("merge", "drop"):
            yield f"{edit.target!r} is not kept itself (row {into.row}: {into.action}); merge into one that is"
    elif edit.action == "rename":
        if "~" in edit.target or ";" in edit.target or edit.target.casefold() == OTHERS.casefold():
            yield f"{edit.target!r} cannot be a name: it must not hold '~' or ';', nor be {OTHERS!r}"
    elif edit.action == "move":
        if edit.target not in tops:
            yield f"no {axis} L1 has the id {edit.target!r}"
        elif edit.target == l1:
            yield f"{name!r} is under {edit.target!r} already"


def _edited(tree: LabelTree, edits: Sequence[_Edit], where: str) -> LabelTree:
    old = {(axis, l2.id): l2 for axis in AXES for l1 in tree.axis(axis) for l2 in l1.l2}
    by_key = {edit.key: edit for edit in edits}
    where_to: dict[tuple[str, str], str] = {}  # (axis, id) → its id in the new tree
    below: dict[tuple[str, str], list[L2]] = {(axis, l1.id): [] for axis in AXES for l1 in tree.axis(axis)}
    extra: dict[tuple[str, str], list[L2]] = {}
    for key, edit in by_key.items():
        label = old.get(key) or _new(edit)
        if edit.action == "merge":
            extra.setdefault((key[0], edit.target), []).append(label)
        elif edit.action != "drop":
            top = edit.target if edit.action == "move" else edit.cells["l1"]
            where_to[key] = _moved(key[1], top) if edit.action == "move" else key[1]
            name = edit.target if edit.action == "rename" else label.name
            below[key[0], top].append(label.model_copy(update={"id": where_to[key], "name": name}))
    retired = dict(tree.retired)
    for (axis, name), edit in by_key.items():
        place = where_to.get((axis, edit.target if edit.action == "merge" else name), "")
        if (axis, name) in old and place != name:
            retired[f"{axis}:{name}"] = f"{axis}:{place}" if place else ""
    labels: dict[Axis, list[L1]] = {
        axis: [_with(l1, below[axis, l1.id], extra, axis, where_to) for l1 in tree.axis(axis)] for axis in AXES
    }
    ids = {f"{axis}:{node.id}" for axis in AXES for l1 in labels[axis] for node in (l1, *l1.l2)}
    raw = tree.model_dump(mode="json")
    for axis in AXES:
        raw[axis] = [l1.model_dump(mode="json") for l1 in labels[axis]]
    raw["retired"] = {name: new if new in ids else "" for name, new in _followed(retired).items()}
    if ids != set(tree.ids()):
        raw |= {"version": tree.version + 1, "frozen": {}}
    new = checked(raw, where)
    # versions before stay in the record: a later edit of this file by hand is found out
    frozen = {**(tree.frozen or {tree.version: tree.digest()}), new.version: new.digest()}
    return new.model_copy(update={"frozen": frozen})


def _with(
    l1: L1,
    below: list[L2],
    extra: Mapping[tuple[str, str], list[L2]],
    axis: str,
    where_to: Mapping[tuple[str, str], str],
) -> L1:
    """The L1 with its labels, each with the things, abilities, patterns and tags of what was merged into it."""
    came = {where_to[key]: labels for key, labels in extra.items() if key[0] == axis}

    def joined(label: L2) -> L2:
        parts = [label, *came.get(label.id, ())]
        fields = ("things", "abilities", "patterns", "tags")
        return label.model_copy(
            update={name: tuple(dict.fromkeys(v for part in parts for v in getattr(part, name))) for name in fields}
        )

    return l1.model_copy(update={"l2": tuple(joined(label) for label in below)})


def _followed(retired: Mapping[str, str]) -> dict[str, str]:
    """Each retired id with the end of its chain: what took its place may have been retired later."""
    found: dict[str, str] = {}
    for name, new in retired.items():
        seen = {name}
        while new in retired and new not in seen:
            seen.add(new)
            new = retired[new]
        found[name] = new
    return found


def _new(edit: _Edit) -> L2:
    return L2(
        id=edit.key[1],
        name=edit.cells["name"],
        things=_listed(edit, "things") if edit.cells["axis"] == "domain" else (),
        abilities=_listed(edit, "abilities") if edit.cells["axis"] == "domain" else (),
    )


def _listed(edit: _Edit, name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in edit.cells.get(name, "").split(";") if part.strip())


def _moved(name: str, l1: str) -> str:
    return f"{l1}.{name.partition('.')[2]}"


def _plain(cell: str) -> str:
    cell = cell.strip()
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(tuple(SAFE)) else cell
