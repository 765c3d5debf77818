"""The stable data version: what it is blended with, and how new data becomes part of it (paper §3.2.2).

"Eventually, the newly incorporated data is fully integrated into the new stable data version": all of the stable
version and all of the new data. The ratio that was found is not a reason to leave samples out; it stands in
version.json and says what share of the tokens the next training cycle takes of which set.

A sample that is in both is taken once: as it is in the new data, when the two differ (it was made anew), and at the
place that it had. Both numbers are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open4ov import version_diff, versions
from open4ov.errors import UserError
from open4ov.run_dir import read_json
from open4ov.sample import Sample
from open4ov.store import ImageStore, Seen, count_samples, iter_samples
from open4ov.versions import Parent, Stored, Version

VERDICT = "verdict.json"
HELD = "val.parquet"


@dataclass(frozen=True)
class Given:
    """A set of samples: a version, an import, or another folder's `path`. `held`: a file of what is kept apart beside
    it (the sets of SFT have one)."""

    name: str
    path: Path
    pictures: ImageStore
    version: Version | None

    @property
    def held(self) -> Path | None:
        found = self.path.with_name(HELD)
        return found if found.exists() else None

    def samples(self) -> Stored:
        return Stored(self.path)

    def all(self) -> Iterator[Sample]:
        """Those that are kept apart too."""
        yield from self.samples()
        if self.held:
            yield from iter_samples(self.held)

    def parent(self) -> Parent:
        if self.version:
            return Parent(name=self.name, id=self.version.id, samples=self.version.samples)
        return Parent(name=self.name, id=versions.digest(self.samples()), samples=count_samples(self.path))


def given(path: Path, pictures: ImageStore, name: str | None = None) -> Given:
    """A set by its samples.parquet. Raises UserError when it is empty, or a version that is damaged."""
    version = versions.check(path.parent) if (path.parent / versions.RECORD).exists() else None
    if not count_samples(path):
        raise UserError(f"{path}: holds no sample; rationing needs a stable version and new data")
    return Given(name or (version.name if version else path.parent.name or "new"), path, pictures, version)


def check_trees(sets: Sequence[Given]) -> None:
    """Raises UserError when the labels of the sets are known to be of different label trees: they cannot be balanced,
    nor counted, together."""
    known = {one.version.tree: one for one in sets if one.version and one.version.tree}
    if len(known) > 1:
        (first, a), (second, b), *_ = known.items()
        raise UserError(
            f"{a.path.parent} has labels of the tree {first}, {b.path.parent} of {second}; label one of them anew "
            "by the other's tree (`open4ov labels`), then make its version anew"
        )


def check_admitted(new: Given, verdict: Path | None = None) -> None:
    """Raises UserError when the rapid assessment of new data did not end with `admit`: in `verdict` (a file, or the
    folder it is in), else beside the samples. New data that was never assessed passes."""
    places = [verdict, verdict / VERDICT] if verdict else [new.path.with_name(VERDICT)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        if verdict:
            raise UserError(f"{verdict}: no verdict there; give the folder that `open4ov admit assess` wrote")
        return
    record = read_json(path)
    if record is None or not isinstance(record.get("verdict"), str):
        raise UserError(f"{path}: damaged; assess the new data again")
    if record["verdict"] != "admit":
        raise UserError(
            f"{new.path.parent}: the rapid assessment says {record['verdict']} ({path}); see its page for the "
            "failures, or give --anyway"
        )


@dataclass
class Integrated:
    """What joining the sets met: `overlap`: samples of the new data whose id was there; `replaced`: those of them that
    had other content and took the place of the old one; by set, `added`."""

    overlap: int = 0
    replaced: int = 0
    added: dict[str, int] = field(default_factory=dict[str, int])


def integrate(stable: Given, new: Sequence[Given], told: Integrated) -> Iterator[Sample]:
    """All samples of the stable version and of the new data, each id once, with what is kept apart as split `val`.

    Held in memory: the ids (8 bytes each), and the new samples that are in the stable version too.
    """
    ids = _Ids(stable)
    twice: dict[str, Sample] = {}
    for one in new:
        for sample in one.all():
            if ids.has(sample.id):
                told.overlap += 1
                twice[sample.id] = sample
    for sample in stable.all():
        again = twice.pop(sample.id, None)
        if again is not None and versions.fingerprint(again) != versions.fingerprint(sample):
            told.replaced += 1
            yield again
        else:
            yield sample
    seen = Seen()
    for one in new:
        told.added[one.name] = 0
        for sample in one.all():
            if ids.has(sample.id):
                continue
            if seen.add(sample.id):
                told.added[one.name] += 1
                yield sample
            else:
                told.overlap += 1


def write(
    out: Path, stable: Given, new: Sequence[Given], shares: Mapping[str, float], about: Version, to: ImageStore | None
) -> tuple[Version, Integrated, dict[str, Any]]:
    """Writes the next stable version to the folder `out`; gives its record, what joining met, and the diff from the one
    before. `shares`: of the tokens of the next training cycle, by set. `to`: a store to put all pictures into; None:
    they are where they belong."""
    told = Integrated()
    about = about.model_copy(
        update={"parents": [one.parent() for one in (stable, *new)], "ratio": dict(shares), "tree": _tree(stable, new)}
    )
    pictures = versions.Stores(*(one.pictures for one in (stable, *new)))

    def joined() -> Iterator[Sample]:
        for sample in integrate(stable, new, told):
            if to is not None:
                versions.take(sample, pictures, to)
            yield sample

    made = versions.write(out, joined(), about)
    return made, told, version_diff.diff(_All(stable), Stored(out / versions.SAMPLES))


class _All:
    """All samples of a set, to be gone through more than once."""

    def __init__(self, one: Given) -> None:
        self._one = one

    def __iter__(self) -> Iterator[Sample]:
        return self._one.all()


class _Ids:
    """The ids of a set."""

    def __init__(self, one: Given) -> None:
        self._prints = version_diff.Prints(_All(one))

    def has(self, name: str) -> bool:
        return self._prints.of(name) is not None


def _tree(stable: Given, new: Sequence[Given]) -> str:
    return next((one.version.tree for one in (stable, *new) if one.version and one.version.tree), "")
