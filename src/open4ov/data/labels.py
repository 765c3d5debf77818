"""The dual-axis label tree: domain × ability, L1 ~ L2 (paper §2.2.1).

A tree is YAML with frozen ids and a version; the shipped one is `labels.yaml`. `load` checks all of it at once and says
where each fault is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from open4ov.errors import UserError
from open4ov.sample import Axis, Label

OTHERS = "Others"
AXES: tuple[Axis, Axis] = ("domain", "ability")
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
    """A first-level label with its second level."""

    l2: tuple[L2, ...] = Field(min_length=1)


class LabelTree(BaseModel):
    """`version` changes whenever the set of ids does."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int = Field(ge=1)
    domain: tuple[L1, ...] = Field(min_length=1)
    ability: tuple[L1, ...] = Field(min_length=1)

    def axis(self, axis: Axis) -> tuple[L1, ...]:
        return self.domain if axis == "domain" else self.ability

    def names(self, axis: Axis) -> list[str]:
        return [l1.name for l1 in self.axis(axis)]

    def ids(self) -> list[str]:
        """Every id as `axis:id`, in the tree's order."""
        return [f"{axis}:{node.id}" for axis in AXES for l1 in self.axis(axis) for node in (l1, *l1.l2)]

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


def load(path: str | Path | None = None) -> LabelTree:
    """The tree at `path`, or the shipped one. Raises `LabelError`, listing every fault found."""
    where = str(path) if path else "labels.yaml"
    try:
        file = Path(path) if path else resources.files("open4ov.data") / "labels.yaml"
        raw = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"data.labels: cannot read {where}: {error}") from None
    except yaml.YAMLError as error:
        raise LabelError(f"data.labels: {where} is not YAML: {str(error).replace(chr(10), ' ')}") from None
    try:
        tree = LabelTree.model_validate(raw)
    except ValidationError as error:
        faults = [f"{'.'.join(str(part) for part in e['loc']) or 'file'}: {e['msg']}" for e in error.errors()]
        raise LabelError(f"data.labels: {where}: " + "; ".join(faults)) from None
    faults = list(_faults(tree))
    if faults:
        raise LabelError(f"data.labels: {where}: " + "; ".join(faults))
    return tree


def _faults(tree: LabelTree) -> Iterator[str]:
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
