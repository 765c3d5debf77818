"""Known defects, to measure whether the judges judge (wrong answer, image, topic, language).

Copies of good samples, each spoilt in one way and labelled in `extra["defect"]`. They pass through voting and
verification like any other and are taken out at the end whether caught or not: none ever reaches the data set.

The wrong part is plausible: a wrong answer is the right answer to the same question about another image, a wrong
image one for which the same question has another answer, a wrong topic one of another ability, a wrong language the
answer and response that the other language's question of the same kind has for the same picture content.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence

from open4ov.data.language import written_in
from open4ov.data.topics import Topic
from open4ov.mllm.costs import unpaid
from open4ov.sample import Sample, content_id

KINDS = ("wrong_answer", "wrong_image", "wrong_topic", "wrong_language")


def inject(samples: Sequence[Sample], topics: Sequence[Topic], rate: float, seed: int) -> list[Sample]:
    """round(rate · len(samples)) defective copies, the kinds in turn.

    Where a kind cannot be made of a sample (nobody else is asked the same, no other topic) the next kind is; a sample
    of which none can be made is passed over, so there may be fewer.
    """
    wanted = round(rate * len(samples))
    rng = random.Random(f"defects/{seed}")
    alike: dict[tuple[str, str, str], list[Sample]] = defaultdict(list)
    twins: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        alike[_question(sample)].append(sample)
        twins[sample.task, _content(sample)].append(sample)
    defects: list[Sample] = []
    seen: set[str] = {sample.id for sample in samples}
    for base in rng.sample(list(samples), len(samples)):
        if len(defects) == wanted:
            break
        turn = len(defects) % len(KINDS)
        for kind in (*KINDS[turn:], *KINDS[:turn]):
            others = twins[base.task, _content(base)] if kind == "wrong_language" else alike[_question(base)]
            spoilt = _spoil(base, kind, others, topics, rng)
            if spoilt is not None and spoilt.id not in seen:
                seen.add(spoilt.id)
                defects.append(spoilt)
                break
    return defects


def _spoil(
    base: Sample, kind: str, alike: Sequence[Sample], topics: Sequence[Topic], rng: random.Random
) -> Sample | None:
    spoilt = base.model_copy(update={"extra": dict(base.extra), "steps": unpaid(base.steps)})
    if kind == "wrong_topic":
        right = {label.l1 for label in base.labels if label.axis == "ability"}
        others = [topic for topic in topics if topic.ability[0] not in right]
        if not others:
            return None
        topic = rng.choice(others)
        spoilt.topics = [topic.path]
        spoilt.labels = topic.labels()
        changed: list[str] = [topic.path]
    elif kind == "wrong_language":
        others = [
            other
            for other in alike
            if other.language != base.language
            and written_in(other.answer or "") == other.language
            and not _answers(other) & _answers(base)
        ]
        if not others:
            return None
        other = rng.choice(others)
        changed = [other.id]
        spoilt.answer, spoilt.aliases = other.answer, other.aliases
        spoilt.messages = [base.messages[0], other.messages[-1]]
    else:
        others = [other for other in alike if other.images != base.images and not _answers(other) & _answers(base)]
        if not others:
            return None
        other = rng.choice(others)
        changed = [other.id]
        if kind == "wrong_answer":
            spoilt.answer, spoilt.aliases = other.answer, other.aliases
            spoilt.messages = [base.messages[0], other.messages[-1]]
        else:
            spoilt.images, spoilt.scene = other.images, other.scene
    spoilt.extra["defect"] = kind
    spoilt.id = content_id("defect", kind, base.id, changed)
    return spoilt


def _question(sample: Sample) -> tuple[str, str, str]:
    return sample.task, sample.language, sample.messages[0].text


def _content(sample: Sample) -> str:
    """What a picture shows, as far as its annotation tells; the picture itself without one."""
    return json.dumps(sample.scene, sort_keys=True, ensure_ascii=False) if sample.scene else sample.images[0]


def _answers(sample: Sample) -> set[str]:
    return {text.strip().casefold() for text in (sample.answer or "", *sample.aliases)}
