"""The samples that a review is about: those kept and those rejected, where their pictures lie, and how they are found.

A folder to look at is a run's, with the output of its stage `data`, any folder with a `samples.parquet`, or that of a
stage `rl_pool`, whose `queue.parquet` holds what is to be screened before RL is trained on it. All samples are read
once, for what they are filtered and counted by; a sample itself is read when it is shown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.review.decisions import Decision
from open4ov.review.records import Records
from open4ov.review.texts import Texts
from open4ov.sample import Sample
from open4ov.store import ImageStore, check_finished

STORE = "image-store"
QUEUE = "queue.parquet"
FACETS = ("stage", "split", "task", "language", "domain", "ability", "topic", "source", "review")
"""What samples can be filtered by"""
Values = tuple[str, ...]


class Reviewed:
    """A folder with samples: `files` (kept ones first), their `images`, and where the `reviews` of them lie.

    Raises UserError for a folder without samples.
    """

    def __init__(self, directory: Path) -> None:
        check_finished(directory)
        if (directory / QUEUE).is_file():  # of RL's pool: what is set out to be screened
            held, self.reviews = directory, directory.parent / "reviews"
        elif (directory / "data" / "samples.parquet").is_file():
            held, self.reviews = directory / "data", directory / "reviews"
        elif (directory / "data.failed" / "samples.parquet").is_file():  # no sample was kept: the reasons are there
            held, self.reviews = directory / "data.failed", directory / "reviews"
        elif (directory / "samples.parquet").is_file():
            of_run = any((directory / name).is_file() for name in ("stage.json", "failed.json"))
            run = directory.parent if of_run else directory  # a stage's files stay as made
            held, self.reviews = directory, run / "reviews"
        else:
            raise UserError(
                f"{directory}: holds no samples.parquet, neither itself nor in data/ or data.failed/; name a run "
                "directory whose stage data is finished, or a folder with samples.parquet"
            )
        roots = (directory / STORE, directory.parent / STORE)
        self.images = ImageStore(next((root for root in roots if root.is_dir()), roots[0]))
        names = (QUEUE,) if (directory / QUEUE).is_file() else ("samples.parquet", "rejected.parquet")
        self.files = [held / name for name in names if (held / name).is_file()]


class Collection:
    """The samples of a folder by their place; `places` by id. Raises UserError for a folder without samples."""

    def __init__(self, directory: Path) -> None:
        place = Reviewed(directory)
        self.reviews, self.images = place.reviews, place.images
        self.samples = Records(place.files)
        self.places: dict[str, int] = {}
        self._ids: list[str] = []
        self._facets: list[tuple[Values, ...]] = []
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in FACETS[:-1]}
        self._texts = Texts(self._index())

    def _index(self) -> Iterator[str]:
        """Notes what each sample is found by, and gives its text. Equal values are one object: samples share most."""
        known: dict[tuple[Values, ...], tuple[Values, ...]] = {}
        for place, raw in enumerate(self.samples.raw()):
            record = json.loads(raw)
            facets = _facets(record)
            self._facets.append(known.setdefault(facets, facets))
            self._ids.append(record["id"])
            self.places[record["id"]] = place
            for counter, values in zip(self._counts.values(), facets, strict=True):
                counter.update(dict.fromkeys(values, 1))
            yield said(record)

    def find(self, wanted: Mapping[str, str], text: str, decisions: Mapping[str, Decision]) -> list[int]:
        """The places of the samples that have each wanted value of a facet, and all the words of `text` somewhere."""
        words = text.casefold().split()
        asked = [(FACETS.index(name), value) for name, value in wanted.items() if name != "review"]
        review = wanted.get("review")
        return [
            place
            for place in (self._texts.find(words).tolist() if words else range(len(self._ids)))
            if all(value in self._facets[place][facet] for facet, value in asked)
            and (review is None or review == _verdict(decisions.get(self._ids[place])))
        ]

    def counts(self, decisions: Mapping[str, Decision]) -> dict[str, dict[str, int]]:
        """How many samples have each value of each facet, the commonest first."""
        counted = {**self._counts, "review": Counter(self.verdicts(decisions))}
        return {name: dict(counter.most_common()) for name, counter in counted.items()}

    def verdicts(self, decisions: Mapping[str, Decision]) -> dict[str, int]:
        """How many samples have each verdict, and how many are open. Takes as long as there are decisions."""
        counted = Counter(_verdict(made) for sample, made in decisions.items() if sample in self.places)
        still = len(self._ids) - counted.total()
        return {**({"open": still} if still else {}), **counted}


def _verdict(decision: Decision | None) -> str:
    return decision.verdict if decision else "open"


def _facets(record: Mapping[str, Any]) -> tuple[Values, ...]:
    """A sample's values of all FACETS but its review."""
    return (
        (stage(record["extra"]),),
        (record["split"],),
        (record["task"],),
        (record["language"],),
        _labels(record, "domain"),
        _labels(record, "ability"),
        tuple(record["topics"][:1]),
        (record["source"],),
    )


def stage(extra: Mapping[str, Any]) -> str:
    """What has become of a sample: kept, rejected by judges or verification or another step, or a known defect."""
    if (kind := extra.get("defect")) is not None:
        return f"defect: {kind}"
    rejected = extra.get("rejected_by")
    return f"rejected by {rejected}" if rejected else "kept"


def said(record: Mapping[str, Any]) -> str:
    """All that can be searched for, in one text."""
    told = [record["id"], record["answer"] or "", *record["topics"]]
    for message in record["messages"]:
        told.append("".join(part["text"] or "" for part in message["content"] if part["type"] == "text"))
    return "\n".join([*told, *(vote["reason"] for vote in record["votes"])]).casefold()


def _labels(record: Mapping[str, Any], axis: str) -> Values:
    found = [label for label in record["labels"] if label["axis"] == axis]
    return tuple(dict.fromkeys(name for label in found for name in (label["l1"], label["l2"]) if name))


def shown(sample: Sample, decision: Decision | None) -> dict[str, Any]:
    """All of a sample that the page shows."""
    return {
        **sample.model_dump(exclude={"scene"}),
        "stage": stage(sample.extra),
        "decision": decision.model_dump(exclude_none=True) if decision else None,
    }
