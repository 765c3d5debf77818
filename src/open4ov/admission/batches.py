"""Small balanced batches of a set, and the questions that are held out of them (paper §3.2.2).

A few passes over each set, which may be larger than memory; what is drawn depends on the samples and a seed, not on
their order.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from open4ov.picture_groups import PictureGroups, names
from open4ov.sample import Sample

APART = 0.2
"""Share of a set's pictures whose samples are held out of the trials where nothing of the set is of split `val`."""


@dataclass(frozen=True)
class Batch:
    """Of one set: a small `balanced` batch to train on, and held-out `questions`. `samples`: of the whole set.
    `apart`: there was no split `val`, and the questions are of pictures that this search keeps out of the batch."""

    balanced: list[Sample]
    questions: list[Sample]
    samples: int
    apart: bool


@dataclass(frozen=True)
class Source:
    """A set to draw from. `samples` can be gone through several times; `held`: what is kept apart beside it."""

    samples: Iterable[Sample]
    held: Iterable[Sample] = ()


def batches(sources: Mapping[str, Source], most: int, questions: int, seed: int) -> dict[str, Batch]:
    """Of each set a balanced batch of `most` samples of split `train`, and at most so many `questions` of what is held
    out: of `held` and of split `val`, else of a share of the pictures (`APART`), which hang together over all sets.

    No sample of any batch has a picture that any set's questions ask about, whatever set it is in. Batches and
    questions are drawn evenly over domain, ability (else task) and language; a question has one turn and a reference
    answer.
    """
    together = PictureGroups()
    val = {name: _Even(questions, seed) for name in sources}
    for name, source in sources.items():
        for sample in chain(source.samples, source.held):
            together.add(sample)
        for sample in source.samples:
            if sample.messages and sample.split == "val":
                val[name].offer(sample, askable(sample))
        for sample in source.held:
            val[name].offer(sample, askable(sample))
    asked = {name: drawn.draw() for name, drawn in val.items()}
    apart = {name for name, drawn in asked.items() if not drawn}

    def aside(name: str, sample: Sample) -> bool:
        return name in apart and _draw(f"ration apart {seed} {together.of(sample)}") < APART * 2**64

    for name in apart:
        found = _Even(questions, seed)
        for sample in _trained(sources[name]):
            if aside(name, sample):
                found.offer(sample, askable(sample))
        asked[name] = found.draw()
    seen = {part for drawn in asked.values() for sample in drawn for part in names(sample)}
    made: dict[str, Batch] = {}
    for name, source in sources.items():
        train, count = _Even(most, seed), 0
        for sample in _trained(source):
            count += 1
            train.offer(sample, not aside(name, sample) and seen.isdisjoint(names(sample)))
        made[name] = Batch(train.draw(), asked[name], count, name in apart)
    return made


def _trained(source: Source) -> Iterator[Sample]:
    return (sample for sample in source.samples if sample.messages and sample.split == "train")


def askable(sample: Sample) -> bool:
    """Whether a sample can be asked and its answer be told right from wrong."""
    return sample.answer is not None and [message.role for message in sample.messages] == ["user", "assistant"]


class _Even:
    """`most` samples out of a stream, evenly over its strata, whatever their order: those with the smallest digests."""

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seed = most, seed
        self._strata: dict[tuple[str, ...], list[tuple[int, str, Sample]]] = {}

    def offer(self, sample: Sample, fits: bool = True) -> None:
        if not fits:
            return
        held = self._strata.setdefault(_stratum(sample), [])
        entry = (-_draw(f"ration {self.seed} {sample.id}"), sample.id, sample)
        if len(held) < self.most:
            heapq.heappush(held, entry)
        elif entry[:2] > held[0][:2]:
            heapq.heapreplace(held, entry)

    def draw(self) -> list[Sample]:
        """One of each stratum in turn."""
        queues = [sorted(held, key=lambda entry: (-entry[0], entry[1])) for _, held in sorted(self._strata.items())]
        depth = max(map(len, queues), default=0)
        order = [queue[place][2] for place in range(depth) for queue in queues if place < len(queue)]
        return order[: self.most]


def _stratum(sample: Sample) -> tuple[str, ...]:
    places = {
        axis: min((one.l1 for one in sample.labels if one.axis == axis), default="") for axis in ("domain", "ability")
    }
    return places["domain"], places["ability"] or sample.task, sample.language


def _draw(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
