"""A data set as its reviewers want it: rejected samples left out, fixed ones fixed, and who said so kept with each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.review import decisions
from open4ov.review.collection import Collection, stage
from open4ov.review.decisions import Decision
from open4ov.sample import Part, Sample, Step
from open4ov.store import write_json, write_samples


def apply(directory: Path, out: Path, reviewers: Sequence[str] = ()) -> dict[str, Any]:
    """Writes samples.parquet, rejected.parquet and review.json into `out`, and gives the figures of the latter.

    A sample that anybody rejects is out. Fixes that contradict one another take it out too, and are listed. Rejected
    samples that a reviewer accepts or fixes come back; known defects do not. `reviewers`: whose word counts (all).
    Raises UserError for a name without decisions and for an `out` that exists.
    """
    collection = Collection(directory)
    reviews = decisions.read(collection.reviews)
    if missing := [name for name in reviewers if name not in reviews]:
        raise UserError(f"{collection.reviews}: {missing[0]} has decided nothing; there are {', '.join(reviews)}")
    if out.exists():
        raise UserError(f"{out}: exists; name another folder")
    counted = {name: made for name, made in reviews.items() if not reviewers or name in reviewers}
    kept: list[Sample] = []
    dropped: list[Sample] = []
    conflicts: list[dict[str, Any]] = []
    for sample in collection.samples:
        said = {name: made[sample.id] for name, made in counted.items() if sample.id in made}
        was = stage(sample)
        fixes = {(one.question, one.answer) for one in said.values() if one.verdict == "fix"}
        if len(fixes) > 1:
            conflicts.append({"sample": sample.id, "reviewers": sorted(said)})
        one = _reviewed(sample, said)
        out_ = any(d.verdict == "reject" for d in said.values()) or len(fixes) > 1 or was.startswith("defect")
        if out_ or (was != "kept" and not said):
            dropped.append(one)
            if said and was == "kept":
                one.extra["rejected_by"] = "review"
        else:
            one.extra.pop("rejected_by", None)
            kept.append(_fixed(one, fixes.pop()) if fixes else one)
    write_samples(out / "samples.parquet", kept)
    write_samples(out / "rejected.parquet", dropped)
    figures = {
        "reviewers": {name: len(made) for name, made in counted.items()},
        "agreement": decisions.agreement(counted),
        "kept": len(kept),
        "left_out": len(dropped),
        "conflicts": conflicts,
    }
    write_json(out / "review.json", figures)
    return figures


def _reviewed(sample: Sample, said: Mapping[str, Decision]) -> Sample:
    one = sample.model_copy(deep=True)
    if said:
        one.extra["reviews"] = {name: made.model_dump(exclude_none=True, exclude={"sample"})
                                for name, made in said.items()}  # fmt: skip
        steps = [Step(stage="review", by=name, note=made.verdict) for name, made in said.items()]
        one.steps = [*one.steps, *steps]
    return one


def _fixed(sample: Sample, fix: tuple[str | None, str | None]) -> Sample:
    """The sample with another first question, or another last answer, or both; pictures stay where they are."""
    for role, text in zip(("user", "assistant"), fix, strict=True):
        turns = [message for message in sample.messages if message.role == role]
        if text is None or not turns:
            continue
        turn = turns[0] if role == "user" else turns[-1]
        pictures = [part for part in turn.content if part.type != "text"]
        turn.content = [*pictures, Part(type="text", text=text)]
        if role == "assistant" and sample.answer is not None:
            sample.answer, sample.aliases = text, []
    return sample
