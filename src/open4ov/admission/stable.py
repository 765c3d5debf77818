"""The stable data version: what it is blended with, and how new data becomes part of it (paper §3.2.2).

"Eventually, the newly incorporated data is fully integrated into the new stable data version": all of the stable
version and all of the new data. The ratio that was found is not a reason to leave samples out; it stands in
version.json and says what share of the tokens the next training cycle takes of which set.

A sample that is in both is taken once: as it is in the new data, when the two differ (it was made anew), and at the
place that it had. Both numbers are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def check_admitted(sets: Sequence[Given], verdicts: Sequence[Path] = ()) -> None:
    """Raises UserError when the rapid assessment of a set of new data did not end with `admit`.

    The verdict of a set is the one of `verdicts` (files, or the folders they are in) that judged these very samples,
    else the one beside them, else that of the run that they lie in; what a run has made of its data goes by the verdict
    about these. A set that was never assessed passes where no verdicts are given. A verdict about other data is none.
    """
    given = [_verdict(path) for path in verdicts]
    left = list(given)
    for new in sets:
        run = next((folder for folder in new.path.absolute().parents[:4] if (folder / "run.json").is_file()), None)
        own = [new.path.with_name(VERDICT), *([run / "assess" / VERDICT] if run else [])]
        found = [*given, *(_verdict(path) for path in own if path.is_file())]
        if not found:
            continue
        judged = assessable_id(new.samples())
        record, path = next(((record, path) for record, path in found if _judged(record) == judged), (None, Path()))
        if record is None and run is not None and run / "data" != new.path.absolute().parent:
            record, path = found[-1] if found[-1][1] == own[-1] else (None, Path())
        if record is None:
            told = ", ".join(str(path) for _, path in found)
            raise UserError(
                f"{new.path.parent}: the verdicts that there are ({told}) are about other data; assess these "
                "(open4ov admit assess), or give --anyway"
            )
        if record["verdict"] != "admit":
            raise UserError(
                f"{new.path.parent}: the rapid assessment says {record['verdict']} ({path}); see its page for the "
                "failures, or give --anyway"
            )
        left = [one for one in left if _judged(one[0]) != judged]
    if left:
        raise UserError(f"{left[0][1]}: is about none of the new data; leave --verdict away, or give the right one")


def assessable(samples: Iterable[Sample]) -> Iterator[Sample]:
    """What of new data can be trained on, and is assessed."""
    return (sample for sample in samples if sample.split == "train" and sample.messages)


def assessable_id(samples: Iterable[Sample]) -> str:
    """What a verdict names the data by that it is about."""
    return versions.digest(assessable(samples))


def _judged(record: dict[str, Any]) -> str | None:
    about: dict[str, Any] = record.get("batch") or {}
    return about.get("id")


def _verdict(path: Path) -> tuple[dict[str, Any], Path]:
    """The contents of a verdict, and its file."""
    file = path if path.is_file() else path / VERDICT
    if not file.is_file():
        raise UserError(f"{path}: no verdict there; give the folder that `open4ov admit assess` wrote")
    record = read_json(file)
    if record is None or not isinstance(record.get("verdict"), str):
        raise UserError(f"{file}: damaged; assess the new data again")
    return record, file


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
    ids = version_diff.Prints(_All(stable))
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


def _tree(stable: Given, new: Sequence[Given]) -> str:
    return next((one.version.tree for one in (stable, *new) if one.version and one.version.tree), "")
