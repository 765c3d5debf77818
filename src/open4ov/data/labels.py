"""The dual-axis label tree: domain × ability, L1 ~ L2 (paper §2.2.1).

A tree is YAML with frozen ids and a version; the shipped one is `labels.yaml`. `load` checks all of it at once and says
where each fault is. Two forms are read: nested (L2 under its L1), and flat rows that name a parent (labels_flat.py).
How a tree grows: labels_expand.py proposes L2 labels, labels_review.py has a person decide about them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from open4ov import yaml_file
from open4ov.data import labels_flat
from open4ov.errors import UserError
from open4ov.recipe_labels import LabelsSection
from open4ov.sample import Axis, Label, content_id

OTHERS = "Others"
AXES: tuple[Axis, Axis] = ("domain", "ability")
QUESTION_TYPES = ("open", "choice", "yes_no", "counting", "reading", "reasoning", "description")
_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")


class LabelError(UserError):
    """A label tree that cannot be used: what is wrong, and where in which file."""


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    name: str


class L2(_Node):
    """A second-level label. Domain labels carry `things` and `abilities`, ability labels `patterns`."""

    things: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class L1(_Node):
    """A first-level label with its second level. An ability's `types` are the question types that exercise it
    (question_types.py); none given leaves all open."""

    types: tuple[str, ...] = ()
    l2: tuple[L2, ...] = Field(min_length=1)


class LabelTree(BaseModel):
    """`version` changes whenever the set of ids does.

    `frozen` maps each version to the digest of its ids, so that a change without a new version is found in the file
    itself. `retired` maps ids of earlier versions, as `axis:id`, to what took their place, or to "" for nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int = Field(ge=1)
    frozen: dict[int, str] = Field(default_factory=dict)
    retired: dict[str, str] = Field(default_factory=dict)
    domain: tuple[L1, ...] = Field(min_length=1)
    ability: tuple[L1, ...] = Field(min_length=1)

    def axis(self, axis: Axis) -> tuple[L1, ...]:
        return self.domain if axis == "domain" else self.ability

    def names(self, axis: Axis) -> list[str]:
        return [l1.name for l1 in self.axis(axis)]

    def places(self, axis: Axis) -> list[str]:
        """All names on an axis in the tree's order: each L1 as "L1", its L2 as "L1 ~ L2"."""
        return [name for l1 in self.axis(axis) for name in (l1.name, *(f"{l1.name} ~ {l2.name}" for l2 in l1.l2))]

    def ids(self) -> list[str]:
        """Every id as `axis:id`, in the tree's order."""
        return [f"{axis}:{node.id}" for axis in AXES for l1 in self.axis(axis) for node in (l1, *l1.l2)]

    @property
    def named(self) -> str:
        """Which tree it is, as records of data sets say it: its version, and the digest of its ids."""
        return f"{self.version} {self.digest()}"

    def digest(self) -> str:
        """Of the set of ids: what `frozen` holds for a version."""
        return content_id(sorted(self.ids()))

    def find(self, axis: Axis, l1: str, l2: str) -> L2 | None:
        """The L2 label of these names."""
        return next((low for top in self.axis(axis) if top.name == l1 for low in top.l2 if low.name == l2), None)

    def tags(self, labels: Sequence[Label]) -> dict[str, list[str]]:
        """Axis → the tags of the L2 labels given."""
        wanted = {(label.axis, label.l1, label.l2) for label in labels}
        return {
            axis: [
                tag for l1 in self.axis(axis) for l2 in l1.l2 if (axis, l1.name, l2.name) in wanted for tag in l2.tags
            ]
            for axis in AXES
        }

    def pairs(self, domains: set[str], abilities: set[str]) -> Iterator[tuple[L1, L2, L1, L2]]:
        """(domain L1, L2, ability L1, L2) within the given L1 names, where the domain says the ability makes sense."""
        for domain in self.domain:
            if domain.name not in domains:
                continue
            for domain2 in domain.l2:
                for ability in self.ability:
                    if ability.name in abilities and ability.id in domain2.abilities:
                        for ability2 in ability.l2:
                            yield domain, domain2, ability, ability2


def load(path: str | Path | LabelsSection | None = None) -> LabelTree:
    """The tree at `path`, the shipped one, or that with what a recipe adds. Raises `LabelError` with every fault."""
    if isinstance(path, LabelsSection):
        from open4ov.data.labels_added import extended

        return extended(_shipped(), path)
    return _read(Path(path), str(path)) if path else _shipped()


@cache
def _shipped() -> LabelTree:
    return _read(resources.files("open4ov.data") / "labels.yaml", "labels.yaml")


def _read(file: Traversable, where: str) -> LabelTree:
    try:
        raw = yaml_file.parse(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"data.labels: cannot read {where}: {error}") from None
    except yaml.YAMLError as error:
        raise LabelError(f"data.labels: {where} is not YAML: {str(error).replace(chr(10), ' ')}") from None
    cycle = _alias_cycle(raw, "file", ())
    faults = [cycle] if cycle else []
    if not faults and labels_flat.is_flat(raw):
        raw, faults = labels_flat.nest(raw)
    if faults:
        raise LabelError(f"data.labels: {where}: " + "; ".join(faults))
    return checked(raw, f"data.labels: {where}")


def checked(raw: object, where: str) -> LabelTree:
    """A tree from its nested form. Raises `LabelError` with every fault found, after `where`."""
    try:
        tree = LabelTree.model_validate(raw)
    except ValidationError as error:
        faults = [f"{'.'.join(str(part) for part in e['loc']) or 'file'}: {e['msg']}" for e in error.errors()]
        raise LabelError(f"{where}: " + "; ".join(faults)) from None
    faults = list(_faults(tree))
    if faults:
        raise LabelError(f"{where}: " + "; ".join(faults))
    return tree


def dump(tree: LabelTree) -> str:
    """The tree as YAML, nested form; `load` reads the same tree again."""
    bare = tree.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(bare, allow_unicode=True, sort_keys=False, width=120)


def check_successor(old: LabelTree, new: LabelTree, where: str) -> None:
    """Raises `LabelError` when `new` has other ids than `old` without a higher version, or an id that was retired."""
    changed = set(old.ids()) ^ set(new.ids())
    if changed and new.version <= old.version:
        raise LabelError(
            f"{where}: {len(changed)} ids differ from version {old.version} ({', '.join(sorted(changed)[:5])}) and the "
            f"version is {new.version}; ids are frozen: give the changed tree version {old.version + 1}"
        )
    back = sorted(set(old.retired) & set(new.ids()))
    if back:
        raise LabelError(f"{where}: retired ids are never used again: {', '.join(back)}; choose new ones")


def _alias_cycle(node: object, place: str, above: tuple[int, ...]) -> str:
    """Where an alias of the YAML makes a label lie below itself; empty if nowhere."""
    if id(node) in above:
        return f"{place}: is below itself (an alias in the YAML makes a cycle)"
    below = (*above, id(node))
    entries: list[tuple[Any, Any]] = []
    if isinstance(node, dict):
        entries = list(cast("dict[Any, Any]", node).items())
    elif isinstance(node, list):
        entries = list(enumerate(cast("list[Any]", node)))
    found = (_alias_cycle(value, f"{place}.{name}", below) for name, value in entries)
    return next((fault for fault in found if fault), "")


def _frozen_faults(tree: LabelTree) -> Iterator[str]:
    digest = tree.digest()
    if tree.frozen and tree.frozen.get(tree.version) != digest:
        if tree.version in tree.frozen:
            yield (
                f"the ids are not those of version {tree.version}, and ids are frozen: set version: "
                f"{max(tree.frozen) + 1} and add {max(tree.frozen) + 1}: {digest} under frozen"
            )
        else:
            yield f"frozen has no digest for version {tree.version}: add {tree.version}: {digest}"
    ids = set(tree.ids())
    for old, new in tree.retired.items():
        if old in ids:
            yield f"retired: {old!r} is still in the tree; a retired id is never used again"
        if new and new not in ids:
            yield f"retired: {old!r} leads to {new!r}, which is not in the tree"


def _faults(tree: LabelTree) -> Iterator[str]:
    yield from _frozen_faults(tree)
    for axis in AXES:
        nodes = [node for l1 in tree.axis(axis) for node in (l1, *l1.l2)]
        for what, values in (("id", [node.id for node in nodes]), ("name", [node.name.casefold() for node in nodes])):
            for value, count in Counter(values).items():
                if count > 1:
                    yield f"{axis}: the {what} {value!r} occurs {count} times"
        for node in nodes:
            if not _ID.fullmatch(node.id):
                yield f"{axis}: the id {node.id!r} is not lower-case words (L1) or l1.l2 (L2)"
            if not node.name.strip() or "~" in node.name or ";" in node.name:
                yield f"{axis}.{node.id}: a name must not be empty, nor hold '~' or ';', which part names"
            if node.name.casefold() == OTHERS.casefold():
                yield f"{axis}.{node.id}: {OTHERS!r} is the matcher's boundary and cannot be a label"
        for l1 in tree.axis(axis):
            if axis == "domain" and l1.types:
                yield f"domain.{l1.id}: 'types' belongs to ability labels"
            for kind in l1.types:
                if kind not in QUESTION_TYPES:
                    yield f"{axis}.{l1.id}: no question type {kind!r}; the types are {', '.join(QUESTION_TYPES)}"
            if "." in l1.id:
                yield f"{axis}.{l1.id}: an L1 id has no dot"
            for l2 in l1.l2:
                if not l2.id.startswith(l1.id + "."):
                    yield f"{axis}.{l2.id}: the id must start with {l1.id + '.'!r}, its L1"
    known = {l1.id for l1 in tree.ability}
    for l2 in (l2 for l1 in tree.domain for l2 in l1.l2):
        if l2.patterns:
            yield f"domain.{l2.id}: 'patterns' belongs to ability labels"
        if not l2.abilities:
            yield f"domain.{l2.id}: 'abilities' is empty: name the ability L1 ids that make sense for it"
        for ability in l2.abilities:
            if ability not in known:
                yield f"domain.{l2.id}: no ability L1 has the id {ability!r}"
    for l2 in (l2 for l1 in tree.ability for l2 in l1.l2):
        if l2.things or l2.abilities:
            yield f"ability.{l2.id}: 'things' and 'abilities' belong to domain labels"
        for pattern in l2.patterns:
            if "{thing}" not in pattern:
                yield f"ability.{l2.id}: the pattern {pattern!r} lacks {{thing}}"
