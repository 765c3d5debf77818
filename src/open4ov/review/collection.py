"""The samples that a review is about: those kept and those rejected, where their pictures lie, and how they are found.

A folder to look at is a run's, with the output of its stage `data`, or any folder with a `samples.parquet`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.review.decisions import Decision
from open4ov.sample import Sample
from open4ov.store import ImageStore, check_finished, read_samples

STORE = "image-store"
FACETS = ("stage", "split", "task", "language", "domain", "ability", "topic", "source", "review")
"""What samples can be filtered by"""


class Collection:
    """`samples` in order, kept ones first; `reviews`: where the decisions about them lie. Raises UserError for a folder
    without samples."""

    def __init__(self, directory: Path) -> None:
        check_finished(directory)
        if (directory / "data" / "samples.parquet").is_file():
            held, self.reviews = directory / "data", directory / "reviews"
        elif (directory / "samples.parquet").is_file():
            run = (
                directory.parent if (directory / "stage.json").is_file() else directory
            )  # a stage's files stay as made
            held, self.reviews = directory, run / "reviews"
        else:
            raise UserError(
                f"{directory}: holds no samples.parquet, neither itself nor in data/; name a run directory whose stage "
                "data is finished, or a folder with samples.parquet"
            )
        roots = (directory / STORE, directory.parent / STORE)
        self.images = ImageStore(next((root for root in roots if root.is_dir()), roots[0]))
        self.samples = read_samples(held / "samples.parquet")
        rejected = held / "rejected.parquet"
        self.samples += read_samples(rejected) if rejected.is_file() else []
        self.places = {sample.id: place for place, sample in enumerate(self.samples)}
        self._facets = [_facets(sample) for sample in self.samples]

    def find(self, wanted: Mapping[str, str], text: str, decisions: Mapping[str, Decision]) -> list[Sample]:
        """The samples that have each wanted value of a facet, and all the words of `text` somewhere in them."""
        words = text.casefold().split()
        return [
            sample
            for sample, facets in self._each(decisions)
            if all(value in facets[name] for name, value in wanted.items())
            and (not words or all(word in said(sample) for word in words))
        ]

    def counts(self, decisions: Mapping[str, Decision]) -> dict[str, dict[str, int]]:
        """How many samples have each value of each facet, the commonest first."""
        counted: dict[str, Counter[str]] = {name: Counter() for name in FACETS}
        for _, facets in self._each(decisions):
            for name, values in facets.items():
                counted[name].update(dict.fromkeys(values, 1))
        return {name: dict(counter.most_common()) for name, counter in counted.items()}

    def _each(self, decisions: Mapping[str, Decision]) -> Iterator[tuple[Sample, dict[str, list[str]]]]:
        for sample, facets in zip(self.samples, self._facets, strict=True):
            decision = decisions.get(sample.id)
            yield sample, {**facets, "review": [decision.verdict if decision else "open"]}


def _facets(sample: Sample) -> dict[str, list[str]]:
    """A sample's values of all FACETS but its review."""
    return {
        "stage": [stage(sample)],
        "split": [sample.split],
        "task": [sample.task],
        "language": [sample.language],
        **{axis: _labels(sample, axis) for axis in ("domain", "ability")},
        "topic": sample.topics[:1],
        "source": [sample.source],
    }


def stage(sample: Sample) -> str:
    """What has become of a sample: kept, rejected by judges or verification or another step, or a known defect."""
    if (kind := sample.extra.get("defect")) is not None:
        return f"defect: {kind}"
    rejected = sample.extra.get("rejected_by")
    return f"rejected by {rejected}" if rejected else "kept"


def said(sample: Sample) -> str:
    """All that can be searched for, in one text."""
    told = [sample.id, sample.answer or "", *sample.topics, *(message.text for message in sample.messages)]
    return "\n".join([*told, *(vote.reason for vote in sample.votes)]).casefold()


def _labels(sample: Sample, axis: str) -> list[str]:
    found = [label for label in sample.labels if label.axis == axis]
    return list(dict.fromkeys(name for label in found for name in (label.l1, label.l2) if name))


def shown(sample: Sample, decision: Decision | None) -> dict[str, Any]:
    """All of a sample that the page shows."""
    return {
        **sample.model_dump(exclude={"scene"}),
        "stage": stage(sample),
        "decision": decision.model_dump(exclude_none=True) if decision else None,
    }
