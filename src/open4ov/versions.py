"""Versioned data sets: a folder of samples that says what it is, what it was made from, and what has changed.

A version is never changed once it is written: `samples.parquet`, `version.json` and a card for people (`README.md`).
Its id is a digest of its samples, so equal sets have equal ids wherever they were made.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from open4ov.errors import UserError
from open4ov.run_dir import beside, read_json
from open4ov.sample import Sample
from open4ov.store import iter_samples, write_json, write_samples

SetName = Literal["knowledge", "ability", "preference", "stable", "new"]


class Parent(BaseModel):
    """A set that this one was made from: the `id` of a version, or the digest of a file; and how many came of it."""

    model_config = ConfigDict(extra="forbid")
    name: str
    id: str
    samples: int


class Version(BaseModel):
    """The contents of version.json. `ratio`: samples of each parent a sample of this set, where it is a blend."""

    model_config = ConfigDict(extra="forbid")
    open4ov: Literal["version-1"] = "version-1"
    name: str
    id: str
    samples: int
    tasks: dict[str, int] = Field(default_factory=dict)
    languages: dict[str, int] = Field(default_factory=dict)
    sources: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, dict[str, int]] = Field(default_factory=dict, description="axis -> L1 -> samples")
    parents: list[Parent] = Field(default_factory=list[Parent])
    ratio: dict[str, float] = Field(default_factory=dict)
    note: str = ""


def digest(samples: Iterable[Sample]) -> str:
    """16 hex digits of what the samples are, in any order: ids, messages and pictures."""
    rows = sorted(
        hashlib.sha256(
            s.model_dump_json(include={"id", "messages", "rejected", "images", "split"}).encode()
        ).hexdigest()
        for s in samples
    )
    return hashlib.sha256("".join(rows).encode()).hexdigest()[:16]


def describe(
    samples: list[Sample],
    name: str,
    parents: Iterable[Parent] = (),
    ratio: dict[str, float] | None = None,
    note: str = "",
) -> Version:
    """The record of a set of samples."""
    labels: dict[str, Counter[str]] = {}
    for sample in samples:
        for axis, l1 in {(label.axis, label.l1) for label in sample.labels}:
            labels.setdefault(axis, Counter())[l1] += 1
    return Version(
        name=name,
        id=digest(samples),
        samples=len(samples),
        tasks=_sorted(Counter(s.task for s in samples)),
        languages=_sorted(Counter(s.language for s in samples)),
        sources=_sorted(Counter(s.source for s in samples)),
        labels={axis: _sorted(counts) for axis, counts in sorted(labels.items())},
        parents=list(parents),
        ratio=ratio or {},
        note=note,
    )


def write(out: Path, samples: list[Sample], version: Version) -> None:
    """Writes the folder whole or not at all. Raises UserError when it is there already."""
    with beside(out) as temporary:
        write_samples(temporary / "samples.parquet", samples)
        write_json(temporary / "version.json", version.model_dump(exclude_defaults=True) | {"open4ov": "version-1"})


def read(folder: Path) -> Version:
    """The record of a version. Raises UserError for a folder that is none, or whose record is damaged."""
    record = read_json(folder / "version.json")
    if record is None:
        raise UserError(f"{folder}: is no version of a data set (version.json is missing or damaged)")
    try:
        return Version.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{folder / 'version.json'}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def samples(folder: Path) -> list[Sample]:
    """The samples of a version. Raises UserError when they are not the ones that its record was made of."""
    version, found = read(folder), list(iter_samples(folder / "samples.parquet"))
    if digest(found) != version.id:
        raise UserError(f"{folder}: samples.parquet is not that of version {version.id}; make the version anew")
    return found


def diff(old: Iterable[Sample], new: Iterable[Sample]) -> dict[str, Any]:
    """What has changed: numbers of samples added, removed and changed (same id, other content), and by task."""
    before, after = _by_id(old), _by_id(new)
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    changed = {name for name in before.keys() & after.keys() if digest([before[name]]) != digest([after[name]])}
    return {
        "added": len(added),
        "removed": len(removed),
        "changed": len(changed),
        "kept": len(before.keys() & after.keys()) - len(changed),
        "tasks": dict(_changes(before, after, added, removed)),
    }


def _changes(
    before: dict[str, Sample], after: dict[str, Sample], added: set[str], removed: set[str]
) -> Iterator[tuple[str, dict[str, int]]]:
    more, fewer = Counter(after[name].task for name in added), Counter(before[name].task for name in removed)
    for task in sorted(more.keys() | fewer.keys()):
        yield task, {"added": more[task], "removed": fewer[task]}


def _by_id(samples: Iterable[Sample]) -> dict[str, Sample]:
    return {sample.id: sample for sample in samples}


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
