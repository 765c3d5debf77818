"""A data set as its reviewers want it: rejected samples left out, fixed ones fixed, and who said so kept with each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.review import decisions
from open4ov.review.collection import STORE, Reviewed, stage
from open4ov.review.decisions import Decision, Fix
from open4ov.run_dir import beside
from open4ov.sample import Part, Sample, Step
from open4ov.store import ImageStore, iter_samples, link, write_json, write_samples

ORIGINALS = "image-files"
"""Where an import keeps the files that its images came in"""


def apply(directory: Path, out: Path, reviewers: Sequence[str] = ()) -> dict[str, Any]:
    """Writes samples.parquet, rejected.parquet, their images and review.json into `out`; gives the latter's figures.

    A sample that anybody rejects is out. Fixes that contradict one another take it out too, and are listed. Rejected
    samples that a reviewer accepts or fixes come back; known defects do not. `reviewers`: whose word counts (all).
    Raises UserError for a name without decisions, an `out` that holds something, and an image that is missing.
    """
    place = Reviewed(directory)
    reviews = decisions.read(place.reviews)
    if missing := [name for name in reviewers if name not in reviews]:
        raise UserError(f"{place.reviews}: {missing[0]} has decided nothing; there are {', '.join(reviews)}")
    counted = {name: made for name, made in reviews.items() if not reviewers or name in reviewers}
    conflicts: list[dict[str, Any]] = []

    def sorted_by(kept: bool) -> Iterator[Sample]:
        for file in place.files:
            for sample in iter_samples(file):
                said = {name: made[sample.id] for name, made in counted.items() if sample.id in made}
                one, stays = decided(sample, said)
                if stays == kept:
                    yield one
                elif kept and len(_fixes(said)) > 1:
                    conflicts.append({"sample": sample.id, "reviewers": sorted(said)})

    with beside(out) as part:
        pictures = _Pictures(place.images, part)
        kept = write_samples(part / "samples.parquet", pictures.taken(sorted_by(True)))
        left_out = write_samples(part / "rejected.parquet", pictures.taken(sorted_by(False)))
        figures = {
            "reviewers": {name: len(made) for name, made in counted.items()},
            "agreement": decisions.agreement(counted),
            "kept": kept,
            "left_out": left_out,
            "conflicts": conflicts,
        }
        write_json(part / "review.json", figures)
    return figures


def decided(sample: Sample, said: Mapping[str, Decision]) -> tuple[Sample, bool]:
    """The sample with what was said of it, and whether it stays in the set."""
    was, fixes = stage(sample.extra), _fixes(said)
    one = _reviewed(sample, said)
    out = any(d.verdict == "reject" for d in said.values()) or len(fixes) > 1 or was.startswith("defect")
    if out or (was != "kept" and not said):
        if said and was == "kept":
            one.extra["rejected_by"] = "review"
        return one, False
    one.extra.pop("rejected_by", None)
    return (_fixed(one, fixes.pop()) if fixes else one), True


def _fixes(said: Mapping[str, Decision]) -> set[Fix]:
    return {one.fix for one in said.values() if one.verdict == "fix"}


def _reviewed(sample: Sample, said: Mapping[str, Decision]) -> Sample:
    one = sample.model_copy(deep=True)
    if said:
        one.extra["reviews"] = {name: made.model_dump(exclude_none=True, exclude={"sample"})
                                for name, made in said.items()}  # fmt: skip
        steps = [Step(stage="review", by=name, note=made.verdict) for name, made in said.items()]
        one.steps = [*one.steps, *steps]
    return one


def _fixed(sample: Sample, fix: Fix) -> Sample:
    """The sample with another first question, last response, reference or other right answers; pictures stay where they
    are. What judges and verification said is of the text before: votes are marked so, and checks lie beside that text
    in `extra["before_fix"]`."""
    before = {
        "question": next((message.text for message in sample.messages if message.role == "user"), None),
        "response": next((message.text for message in sample.messages[::-1] if message.role == "assistant"), None),
        "answer": sample.answer,
        "aliases": sample.aliases,
        "checks": sample.checks,
    }
    sample.extra.setdefault("before_fix", {name: value for name, value in before.items() if value})
    sample.checks = {}
    sample.votes = [vote.model_copy(update={"before_fix": True}) for vote in sample.votes]
    for role, text in (("user", fix.question), ("assistant", fix.answer)):
        turns = [message for message in sample.messages if message.role == role]
        if text is None or not turns:
            continue
        turn = turns[0] if role == "user" else turns[-1]
        pictures = [part for part in turn.content if part.type != "text"]
        turn.content = [*pictures, Part(type="text", text=text)]
    if fix.reference is not None:
        sample.answer = fix.reference
    if fix.aliases is not None:
        sample.aliases = list(fix.aliases)
    return sample


class _Pictures:
    """Puts the images of samples into a new set, and the files they came in where those were kept: as links where the
    file system can, so they take no room twice. Both sets only ever replace files, so neither changes the other's."""

    def __init__(self, store: ImageStore, out: Path) -> None:
        self._store, self._new = store, ImageStore(out / STORE)
        self._originals = store.root.parent / ORIGINALS, out / ORIGINALS

    def taken(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            for sha in sample.images:
                self._take(sha)
            yield sample

    def _take(self, sha: str) -> None:
        target, source = self._new.path(sha), self._store.path(sha)
        if target.exists():
            return
        if not source.is_file():
            raise UserError(f"{source}: is missing; the set is incomplete, and a reviewed one would be too")
        link(source, target)
        kept, new = self._originals
        for file in sorted((kept / sha[:2]).glob(f"{sha}.*")):
            link(file, new / sha[:2] / file.name)
