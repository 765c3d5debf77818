"""Versioned data sets: a folder of samples that says what it is, what it was made from, and what has changed.

A version is never changed once it is written: `samples.parquet`, `version.json` and a card for people (`README.md`);
where it stands alone, an `image-store/` with its pictures too, which share their bytes with the store that they came
from. Its id is a digest of its samples, so equal sets have equal ids wherever they were made. Samples pass one by one:
a version may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from open4ov.errors import UserError
from open4ov.formats.card import Card
from open4ov.run_dir import beside, read_json
from open4ov.sample import Sample
from open4ov.store import (
    ImageStore,
    Seen,
    atomic,
    is_disk_full,
    iter_samples,
    link,
    read_samples,
    write_json,
    write_samples,
)

SAMPLES, RECORD, CARD, STORE = "samples.parquet", "version.json", "README.md", "image-store"


class Parent(BaseModel):
    """A set that this one was made from: the `id` of a version, or the digest of a file; and how many came of it."""

    model_config = ConfigDict(extra="forbid")
    name: str
    id: str
    samples: int


class Version(BaseModel):
    """The contents of version.json.

    `ratio`: name of a parent -> share of the tokens that the next training cycle takes of it; empty: as many as there
    are. `tree`: version and digest of the label tree that the labels are of; `recipe`: digest of the recipe section
    that asked for the set; `commit`: of this package; `sha256`: of samples.parquet. What is not known is empty.
    """

    model_config = ConfigDict(extra="forbid")
    open4ov: Literal["version-1"] = "version-1"
    name: str
    id: str = ""
    samples: int = 0
    images: int = Field(default=0, description="distinct pictures")
    splits: dict[str, int] = Field(default_factory=dict)
    tasks: dict[str, int] = Field(default_factory=dict)
    languages: dict[str, int] = Field(default_factory=dict)
    sources: dict[str, int] = Field(default_factory=dict)
    labels: dict[str, dict[str, int]] = Field(default_factory=dict, description="axis -> L1 -> samples")
    parents: list[Parent] = Field(default_factory=list[Parent])
    ratio: dict[str, float] = Field(default_factory=dict)
    tree: str = ""
    recipe: str = ""
    commit: str = ""
    sha256: str = ""
    note: str = ""


def fields(sample: Sample) -> dict[str, object]:
    """What a sample is, for ids and comparisons: what it asks and answers, shows, belongs to; not what it cost, who
    voted on it, or how well some model answers it."""
    kept = sample.model_dump(
        mode="json",
        include={"id", "split", "task", "language", "images", "messages", "rejected", "answer", "aliases"},
    )
    return {**kept, "labels": sorted([label.axis, label.l1, label.l2 or ""] for label in sample.labels)}


def fingerprint(sample: Sample) -> bytes:
    """32 bytes of what a sample is (`fields`)."""
    return hashlib.sha256(json.dumps(fields(sample), sort_keys=True, ensure_ascii=False).encode()).digest()


class Tally:
    """Counts samples as they pass, in 32 bytes a sample."""

    def __init__(self) -> None:
        self._prints = bytearray()
        self._pictures = Seen()
        self.images = 0
        self.splits: Counter[str] = Counter()
        self.tasks: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.labels: dict[str, Counter[str]] = {}

    def count(self, sample: Sample) -> None:
        """Takes note of a sample."""
        self._prints += fingerprint(sample)
        self.splits[sample.split] += 1
        self.tasks[sample.task] += 1
        self.languages[sample.language] += 1
        self.sources[sample.source] += 1
        for axis, l1 in {(label.axis, label.l1) for label in sample.labels}:
            self.labels.setdefault(axis, Counter())[l1] += 1
        self.images += sum(self._pictures.add(sha) for sha in sample.images)

    def id(self) -> str:
        """16 hex digits of all samples that passed, in whatever order."""
        words = np.frombuffer(bytes(self._prints), ">u8").reshape(-1, 4)
        return hashlib.sha256(words[np.lexsort(words.T[::-1])].tobytes()).hexdigest()[:16]

    def record(self, about: Version) -> Version:
        """The record with id and counts of what has passed."""
        return about.model_copy(
            update={
                "id": self.id(),
                "samples": self.splits.total(),
                "images": self.images,
                "splits": _sorted(self.splits),
                "tasks": _sorted(self.tasks),
                "languages": _sorted(self.languages),
                "sources": _sorted(self.sources),
                "labels": {axis: _sorted(counts) for axis, counts in sorted(self.labels.items())},
            }
        )


def digest(samples: Iterable[Sample]) -> str:
    """The id that a set of these samples has: 16 hex digits, in any order."""
    tally = Tally()
    for sample in samples:
        tally.count(sample)
    return tally.id()


def describe(
    samples: Iterable[Sample],
    name: str,
    parents: Iterable[Parent] = (),
    ratio: dict[str, float] | None = None,
    note: str = "",
) -> Version:
    """The record of a set of samples."""
    tally = Tally()
    for sample in samples:
        tally.count(sample)
    return tally.record(Version(name=name, parents=list(parents), ratio=ratio or {}, note=note))


def write(out: Path, samples: Iterable[Sample], version: Version, pictures: ImageStore | None = None) -> Version:
    """Writes the folder whole or not at all, and gives the record as written: ids and counts are of what passed.

    `pictures`: the store that the samples' pictures lie in, to put them into the folder; None: the folder lies in a
    run, whose store they are in. Raises UserError when the folder is there already, is given an id that the samples do
    not have, a picture is missing, or the disk is full.
    """
    tally, card = Tally(), Card(version.name, "version")

    def passing(folder: Path) -> Iterator[Sample]:
        for sample in samples:
            tally.count(sample)
            card.count(sample)
            if pictures is not None:
                take(sample, pictures, ImageStore(folder / STORE))
            yield sample

    try:
        with beside(out) as folder:
            write_samples(folder / SAMPLES, passing(folder))
            record = tally.record(version)
            if version.id not in ("", record.id):
                raise UserError(f"{out}: its samples have the id {record.id}, and its record says {version.id}")
            record = record.model_copy(update={"sha256": _sha256(folder / SAMPLES)})
            write_json(folder / RECORD, record.model_dump(exclude_defaults=True) | {"open4ov": "version-1"})
            with atomic(folder / CARD) as temporary:
                temporary.write_text(f"{card.text(folder, {})}\n{_card(record)}", encoding="utf-8")
    except OSError as error:
        if is_disk_full(error):
            raise UserError(f"{out}: the disk is full; free some space and give the same command again") from error
        raise
    return record


def read(folder: Path) -> Version:
    """The record of a version. Raises UserError for a folder that is none, or whose record is damaged."""
    record = read_json(folder / RECORD)
    if record is None:
        raise UserError(f"{folder}: is no version of a data set ({RECORD} is missing or damaged)")
    try:
        return Version.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{folder / RECORD}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def check(folder: Path) -> Version:
    """The record of a version whose samples are the ones it was made of. Raises UserError when they are not."""
    version, path = read(folder), folder / SAMPLES
    if not path.is_file():
        raise UserError(f"{path}: is missing; make version {version.id} anew")
    if _sha256(path) != version.sha256:
        raise UserError(f"{path}: is damaged, it is not that of version {version.id}; make the version anew")
    return version


def samples(folder: Path) -> list[Sample]:
    """The samples of a version. Raises UserError when they are not the ones that its record was made of."""
    check(folder)
    return read_samples(folder / SAMPLES)


class Stored:
    """The samples of a Parquet file, read anew each time they are gone through; a few hundred are in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Sample]:
        return iter_samples(self.path)


def store(folder: Path) -> ImageStore:
    """Where the pictures of a version (or of another folder of samples) lie: beside them, or in the run around them."""
    places = [place / STORE for place in (folder, *folder.absolute().parents[:3])]
    return ImageStore(next((place for place in places if place.is_dir()), places[0]))


class Stores(ImageStore):
    """Several image stores as one, for reading: a picture is taken from the first that has it."""

    def __init__(self, *stores: ImageStore) -> None:
        super().__init__(stores[0].root)
        self._stores = stores

    def path(self, sha: str) -> Path:
        """Where the image lies; in the first store when none has it."""
        paths = [store.path(sha) for store in self._stores]
        return next((path for path in paths if path.exists()), paths[0])


def take(sample: Sample, source: ImageStore, to: ImageStore) -> None:
    """Puts a sample's pictures into another store, without taking their space twice where the file system can do that.
    Raises UserError for a picture that is missing."""
    for name in sample.images:
        path = to.path(name)
        if path.exists():
            continue
        if not source.path(name).is_file():
            raise UserError(f"sample {sample.id}: its picture {source.path(name)} is missing")
        link(source.path(name), path)


def _card(version: Version) -> str:
    """What the card says of a version, below what it says of every set."""
    lines = [
        "## Version\n",
        f"`{version.name}` {version.id}, {version.samples:,} samples, {version.images:,} pictures.\n",
    ]
    lines += [f"- made from `{one.name}` {one.id}: {one.samples:,} samples" for one in version.parents]
    lines += [
        f"- next training cycle: {share:.4g} of the tokens from `{name}`" for name, share in version.ratio.items()
    ]
    for word in ("tree", "recipe", "commit", "note"):
        if said := getattr(version, word):
            lines.append(f"- {word}: {said}")
    return "\n".join(lines) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
