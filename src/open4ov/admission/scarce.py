"""Scarce labels as wishes for data construction, topic by topic (paper §3.2.2: "our two-level labels and specific topic
enable rapid sampling in data-scarce dimensions")."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from open4ov.admission.balance import Shortfall, names
from open4ov.feedback import Feedback, Wish
from open4ov.sample import Axis, Sample

MOST_TOPICS = 20
"""Topics of a label that are wished for at once: those with the fewest samples"""


class TopicOf(NamedTuple):
    """A topic that can be asked about: its path, and its place on both axes as "L1 ~ L2"."""

    path: str
    domain: str
    ability: str


def feedback(
    samples: Sequence[Sample],
    shortfalls: Sequence[Shortfall],
    max_repeat: int,
    topics: Iterable[TopicOf] = (),
    labels: str = "",
) -> Feedback:
    """What data construction is asked for: labels that are scarce by themselves, or, where none is and the two axes
    cannot be met together, those that are short. `topics`: those that it knows, also ones without any sample;
    `labels`: the version of the label tree."""
    every = list(topics)
    wanted = [one for one in shortfalls if one.scarce] or shortfalls
    wishes = [wish for one in wanted for wish in _wishes(samples, one, max_repeat, every)]
    return Feedback(source="open4ov admit balance", labels=labels, wishes=wishes)


def _wishes(samples: Sequence[Sample], short: Shortfall, max_repeat: int, topics: Sequence[TopicOf]) -> Iterator[Wish]:
    """Different samples are wished for, so many that with the repeats that are allowed the target can be met; each
    topic under the label as many as brings all of them to one level."""
    volume = max(short.target / max_repeat, short.volume + (short.target - short.got) / max_repeat)
    needed = math.ceil(
        volume * (short.have / short.volume if short.volume else 1) - 1e-6
    )  # samples that count by parts
    reason = f"{short.label}: {short.have} different samples; {short.got} of {short.target} that it should have"
    place = Wish(want="more", reason=reason).model_copy(update={short.axis: short.label})
    counted = _by_topic(samples, short, topics)
    if not counted:
        yield place.model_copy(update={"weight": round(needed / max(1, short.have) - 1, 4) or 1.0})
        return
    scarcest = sorted(counted.items(), key=lambda item: (item[1], item[0]))
    level = _level([count for _, count in scarcest], needed)
    for path, count in [(path, count) for path, count in scarcest if count < level][:MOST_TOPICS]:
        weight = level / count - 1 if count else level
        told = {"topic": path, "weight": round(weight, 4), "reason": f"{reason}; {count} on this topic"}
        yield place.model_copy(update=told)


def _by_topic(samples: Sequence[Sample], short: Shortfall, topics: Sequence[TopicOf]) -> dict[str, int]:
    """Samples of each topic under the label."""
    found = Counter(dict.fromkeys((one.path for one in topics if _under(one, short.axis, short.label)), 0))
    level = "l2" if " ~ " in short.label else "l1"
    for sample in samples:
        if sample.split == "train" and short.label in names(sample, short.axis, level):
            for path in sample.topics[:1] if len(sample.topics) == 1 else _of_label(sample, short):
                found[path] += 1
    return dict(found)


def _of_label(sample: Sample, short: Shortfall) -> list[str]:
    """Of several topics those under an ability label by their path; under a domain label none can be told apart."""
    return [path for path in sample.topics if short.axis == "domain" or f"{path} ~ ".startswith(f"{short.label} ~ ")]


def _under(topic: TopicOf, axis: Axis, label: str) -> bool:
    return f"{topic.domain if axis == 'domain' else topic.ability} ~ ".startswith(f"{label} ~ ")


def _level(counts: Sequence[int], total: int) -> int:
    """The lowest level with Σ max(count, level) ≥ total; counts in ascending order."""
    for few in range(1, len(counts) + 1):  # the `few` smallest are raised
        level = math.ceil((total - sum(counts[few:])) / few)
        if few == len(counts) or level <= counts[few]:
            return max(level, counts[0])
    return 0
