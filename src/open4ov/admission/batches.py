"""Small balanced batches of a set, and the questions that are held out of them (paper §3.2.2).

One pass over a set, which may be larger than memory; what is drawn depends on the samples and a seed, not on
their order.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

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


def batch(
    samples: Iterable[Sample], most: int, questions: int, seed: int, held: Iterable[Sample] | None = None
) -> Batch:
    """A balanced batch of `most` samples of split `train`, and at most so many
    `questions` of what is held out: of `held`, else of split `val`, else of a share of the pictures (`APART`).

    Both are drawn evenly over domain, ability (else task) and language; a question has one turn and a reference answer.
    """
    train, val, aside, inside = (_Even(count, seed) for count in (most, questions, questions, most))
    for sample in samples:
        if not sample.messages:
            continue
        if sample.split == "val":
            val.offer(sample, askable(sample))
        elif sample.split == "train":
            train.offer(sample)
            if _apart(sample, seed):
                aside.offer(sample, askable(sample))
            else:
                inside.offer(sample)
    for sample in held or ():
        val.offer(sample, askable(sample))
    if chosen := val.draw():
        return Batch(train.draw(), chosen, train.seen, apart=False)
    return Batch(inside.draw(), aside.draw(), train.seen, apart=True)


def askable(sample: Sample) -> bool:
    """Whether a sample can be asked and its answer be told right from wrong."""
    return sample.answer is not None and [message.role for message in sample.messages] == ["user", "assistant"]


class _Even:
    """`most` samples out of a stream, evenly over its strata, whatever their order: those with the smallest digests."""

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seed, self.seen = most, seed, 0
        self._strata: dict[tuple[str, ...], list[tuple[int, str, Sample]]] = {}

    def offer(self, sample: Sample, fits: bool = True) -> None:
        if not fits:
            return
        self.seen += 1
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


def _apart(sample: Sample, seed: int) -> bool:
    """Whether a sample is held out: all samples of a picture are, or none."""
    name = min(sample.images, default=sample.id)
    return _draw(f"ration apart {seed} {name}") < APART * 2**64


def _draw(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
