"""Known defects, to measure whether the judges judge (wrong answer, image, topic, language).

Copies of good samples, each spoilt in one way and labelled in `extra["defect"]`. They pass through voting and
verification like any other and are taken out at the end whether caught or not: none ever reaches the data set.

The wrong part is plausible: a wrong answer is the right answer to the same question about another image, a wrong
image one for which the same question has another answer, a wrong topic one of another ability, a wrong language the
answer and response that the other language's question of the same kind has for the same picture content.

What is chosen depends on a few facts of each sample only (`Trait`), so that those of a million samples may lie on disk
(defect_index.py); the samples themselves are read when a choice is carried out.
"""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from open4ov.data.language import written_in
from open4ov.data.topics import Topic
from open4ov.mllm.costs import unpaid
from open4ov.sample import Sample, content_id

KINDS = ("wrong_answer", "wrong_image", "wrong_topic", "wrong_language")
MOST_ALIKE = 1024
"""Samples of one question, or of one picture content, among which a wrong part is sought: the first so many"""


@dataclass(frozen=True, slots=True)
class Trait:
    """What the choice of defects reads of a sample. Texts are 64 bits of their hash; `number` is its place.

    `speaks`: its answer is written in its language, as far as that can be told.
    """

    number: int
    id: str
    question: int
    content: int
    images: int
    language: str
    speaks: bool
    answers: frozenset[int]
    abilities: frozenset[str]


class Pool(Protocol):
    """The traits of all samples. `alike`: those that are asked the same; `twins`: those of the same task and picture
    content; at most `MOST_ALIKE`, in order."""

    def __len__(self) -> int: ...
    def at(self, number: int) -> Trait: ...
    def alike(self, trait: Trait) -> Sequence[Trait]: ...
    def twins(self, trait: Trait) -> Sequence[Trait]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A defect to be made: of the sample `base`, with a part of the sample `other`, or the topic of number `topic`."""

    kind: str
    base: int
    other: int | None = None
    topic: int | None = None


def inject(samples: Sequence[Sample], topics: Sequence[Topic], rate: float, seed: int) -> list[Sample]:
    """round(rate · len(samples)) defective copies, the kinds in turn.

    Where a kind cannot be made of a sample (nobody else is asked the same, no other topic) the next kind is; a sample
    of which none can be made is passed over, so there may be fewer.
    """
    pool = _Held([trait(number, sample) for number, sample in enumerate(samples)])
    return [
        spoil(
            samples[choice.base],
            choice,
            None if choice.other is None else samples[choice.other],
            None if choice.topic is None else topics[choice.topic],
        )
        for choice in choose(pool, topics, rate, seed)
    ]


def choose(pool: Pool, topics: Sequence[Topic], rate: float, seed: int) -> Iterator[Choice]:
    """The defects to be made of samples, in order; see `inject`."""
    wanted = round(rate * len(pool))
    rng = random.Random(f"defects/{seed}")
    elsewhere: dict[frozenset[str], array[int]] = {}
    made = 0
    for number in shuffled(len(pool), rng):
        if made == wanted:
            return
        base = pool.at(number)
        turn = made % len(KINDS)
        for kind in (*KINDS[turn:], *KINDS[:turn]):
            if kind == "wrong_topic":
                if base.abilities not in elsewhere:
                    far = (n for n, topic in enumerate(topics) if topic.ability[0] not in base.abilities)
                    elsewhere[base.abilities] = array("I", far)
                if others := elsewhere[base.abilities]:
                    yield Choice(kind, number, topic=rng.choice(others))
                    break
            elif others := [one.number for one in _others(pool, base, kind)]:
                yield Choice(kind, number, other=rng.choice(others))
                break
        else:
            continue
        made += 1


def shuffled(count: int, rng: random.Random) -> Iterator[int]:
    """The numbers below `count` in the order of `rng.sample(range(count), count)`, in 4 bytes each."""
    pool = array("I", range(count))
    for last in range(count - 1, -1, -1):
        place = rng.randrange(last + 1)
        pool[last], pool[place] = pool[place], pool[last]
    return reversed(pool)


def _others(pool: Pool, base: Trait, kind: str) -> Iterator[Trait]:
    """The samples whose part would be wrong in the base."""
    if kind == "wrong_language":
        for one in pool.twins(base):
            if one.language != base.language and one.speaks and not one.answers & base.answers:
                yield one
    else:
        for one in pool.alike(base):
            if one.images != base.images and not one.answers & base.answers:
                yield one


def spoil(base: Sample, choice: Choice, other: Sample | None, topic: Topic | None) -> Sample:
    """The defective copy that was chosen."""
    kind = choice.kind
    spoilt = base.model_copy(update={"extra": dict(base.extra), "steps": unpaid(base.steps)})
    if kind == "wrong_topic":
        assert topic is not None
        spoilt.topics = [topic.path]
        spoilt.labels = topic.labels()
        changed = [topic.path]
    else:
        assert other is not None
        changed = [other.id]
        if kind == "wrong_image":
            spoilt.images, spoilt.scene = other.images, other.scene
        else:
            spoilt.answer, spoilt.aliases = other.answer, other.aliases
            spoilt.messages = [base.messages[0], other.messages[-1]]
    spoilt.extra["defect"] = kind
    spoilt.id = content_id("defect", kind, base.id, changed)
    return spoilt


def trait(number: int, sample: Sample) -> Trait:
    """What the choice reads of a sample."""
    content = json.dumps(sample.scene, sort_keys=True, ensure_ascii=False) if sample.scene else sample.images[0]
    answers = {text.strip().casefold() for text in (sample.answer or "", *sample.aliases)}
    return Trait(
        number,
        sample.id,
        _hash(sample.task, sample.language, sample.messages[0].text),
        _hash(sample.task, content),
        _hash(*sample.images),
        sample.language,
        written_in(sample.answer or "") == sample.language,
        frozenset(map(_hash, answers)),
        frozenset(label.l1 for label in sample.labels if label.axis == "ability"),
    )


def _hash(*texts: str) -> int:
    digest = hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class _Held:
    """Traits in memory."""

    def __init__(self, traits: Sequence[Trait]) -> None:
        self._traits = traits
        self._alike: dict[int, list[Trait]] = defaultdict(list)
        self._twins: dict[int, list[Trait]] = defaultdict(list)
        for one in traits:
            for groups, key in ((self._alike, one.question), (self._twins, one.content)):
                if len(groups[key]) < MOST_ALIKE:
                    groups[key].append(one)

    def __len__(self) -> int:
        return len(self._traits)

    def at(self, number: int) -> Trait:
        return self._traits[number]

    def alike(self, trait: Trait) -> Sequence[Trait]:
        return self._alike[trait.question]

    def twins(self, trait: Trait) -> Sequence[Trait]:
        return self._twins[trait.content]
