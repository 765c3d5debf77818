"""What a feedback file changes in data construction (paper §3.2.2: assessment and balance "provide feedback to the data
production side to refine subsequent production and sampling strategies").

Each wish is about a place (domain, ability, topic, task) and has a factor: `more` 1 + weight, `less` 1 / (1 + weight).

    topics    a pair of labels that is wished more of is asked for as many times more topics; a topic that is wished by
              name and was not found is added
    matching  where next to nothing would fall to a wish, the images that are nearest to a wished topic get it in place
              of their last one. Never under another domain: what an image shows is not a matter of wishes
    budget    an image's is scaled by the mean factor of its topics, within min_pairs and max_pairs; with total_pairs
              the same total is shared out by IDS times that factor
    plan      topics and question types of an image have turns in proportion to their factors

`better`: the samples that are named are not used again, and images under the place are asked anew: another seed, and a
prompt that says so. Shapes: an image's `near` is its topics with their scores, best first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from open4ov import feedback, yaml_file
from open4ov.data.labels import LabelTree
from open4ov.data.question_types import types_of
from open4ov.data.topics import Pair, Topic
from open4ov.errors import UserError, nearest
from open4ov.feedback import Wish
from open4ov.mllm.weights import bounded
from open4ov.sample import Axis, Label, Sample

Near = list[tuple[Topic, float]]
POOL = 8
"""Times `top_topics` that are looked at for a topic that is wished"""
NEARLY = 0.8
"""Share of the replaced topic's score that a wished one must have at least"""


@dataclass(frozen=True)
class Rule:
    """A wish as construction reads it; label names in their parts."""

    want: str
    factor: float
    domain: tuple[str, ...]
    ability: tuple[str, ...]
    topic: str | None
    task: str | None
    reason: str

    def about(self, topic: Topic) -> bool:
        """Whether a topic lies in the wish's place, whatever its task."""
        return (
            topic.domain[: len(self.domain)] == self.domain
            and topic.ability[: len(self.ability)] == self.ability
            and self.topic in (None, topic.path)
        )

    def made(self, sample: Sample) -> bool:
        """Whether a sample is one of those that the wish is about."""
        return (
            _under(sample.labels, "domain", self.domain)
            and _under(sample.labels, "ability", self.ability)
            and (self.topic is None or self.topic in sample.topics)
            and self.task in (None, sample.task, sample.extra.get("type"))
        )


class Other(NamedTuple):
    """A wished topic (by its number) that an image could have in place of its last one."""

    wish: int
    image: int
    topic: int
    score: float


class Wishes:
    """A feedback file. `barred`: ids of samples that are not to be used again; `digest`: of what the file says."""

    def __init__(self, path: Path, told: feedback.Feedback, lines: Mapping[yaml_file.Loc, int]) -> None:
        self.path, self.told, self._lines = path, told, lines
        self.rules = [_rule(wish) for wish in told.wishes]
        self.barred = frozenset(name for wish in told.wishes if wish.want == "better" for name in wish.samples)
        self.digest = hashlib.sha256(told.model_dump_json().encode()).hexdigest()[:16]

    def factor(self, topic: Topic, task: str | None = None) -> float:
        """How many times more of a topic, or of a task under it, is wished; 1 where nothing is."""
        found = 1.0
        for rule in self.rules:
            if rule.about(topic) and rule.task in (None, task):
                found *= rule.factor
        return bounded(found)

    def lean(self, near: Near, tree: LabelTree) -> float:
        """How many times its budget an image should have: the mean factor of its topics, each that of its types."""
        return _mean([_mean([self.factor(topic, kind) for kind in types_of(topic, tree)]) for topic, _ in near])

    def others(self, near: Near, k: int) -> list[tuple[int, Topic, float]]:
        """For each wish that is about none of an image's first k topics, the nearest one after these that it is about,
        if that is nearly as near as the last of them: (number of the wish, topic, score)."""
        kept, found = near[:k], list[tuple[int, Topic, float]]()
        domains = {topic.domain for topic, _ in kept}
        for number, rule in enumerate(self.rules):
            wished = rule.want == "more" and (rule.ability or rule.topic)
            if not wished or any(rule.about(topic) for topic, _ in kept):
                continue
            for topic, score in near[k:]:
                if rule.about(topic) and topic.domain in domains and score >= NEARLY * kept[-1][1]:
                    found.append((number, topic, score))
                    break
        return found

    def replacing(self, others: Sequence[Other], before: Sequence[float]) -> list[Other]:
        """Which of `others`, over all images, are used: of each wish to which less than one pair would fall the nearest
        ones, as many as its factor; one for an image."""
        left = {number: rule.factor for number, rule in enumerate(self.rules) if before[number] < 1}
        found: dict[int, Other] = {}
        for one in sorted(others, key=lambda one: (-one.score, one.image, one.wish)):
            if left.get(one.wish, 0.0) > 0 and one.image not in found:
                found[one.image] = one
                left[one.wish] -= 1
        return list(found.values())

    def limit(self, pair: Pair, limit: int) -> int:
        """Topics asked for a pair of L2 labels: more where more is wished; never fewer, for that would leave things out
        instead of making less of them."""
        domain, domain2, ability, ability2 = pair
        under = Topic("", (domain.name, domain2.name), (ability.name, ability2.name))
        plain = [rule.factor for rule in self.rules if rule.topic is None and rule.task is None and rule.about(under)]
        factor = 1.0
        for one in plain:
            factor *= one
        return round(limit * max(1.0, bounded(factor)))

    def check_topics(self, found: Sequence[Topic]) -> list[Topic]:
        """The wished topics that were not found and can be added since the wish names their domain L2. Raises UserError
        for others."""
        paths = {topic.path for topic in found}
        added: dict[Topic, None] = {}
        for number, rule in enumerate(self.rules):
            if rule.topic is None or rule.topic in paths or rule.want == "less":
                continue
            if len(rule.domain) != 2:
                raise UserError(
                    f"{self._where(number, 'topic')}: there is no topic {rule.topic!r}{_near(rule.topic, paths)} "
                    "One that is to be added needs its domain, as 'L1 ~ L2'"
                )
            *ability, name = rule.topic.split(" ~ ")
            added[Topic(name, (rule.domain[0], rule.domain[1]), (ability[0], ability[1]))] = None
        return list(added)

    def check_labels(self, tree: LabelTree) -> None:
        """Raises UserError, naming file and line, for a label that the tree does not have."""
        for number, wish in enumerate(self.told.wishes):
            for axis, name in (("domain", wish.domain), ("ability", wish.ability)):
                known = set(tree.places(cast("Axis", axis)))
                if name is not None and name not in known:
                    raise UserError(
                        f"{self._where(number, axis)}: the label tree (version {tree.version}) has no {axis} "
                        f"{name!r}{nearest(name, known)}"
                    )
            if wish.topic is None:
                continue
            above, _, last = wish.topic.rpartition(" ~ ")
            known = {name for name in tree.places("ability") if " ~ " in name}
            if above not in known or not last:
                raise UserError(
                    f"{self._where(number, 'topic')}: {wish.topic!r} is no topic under this label tree: a topic is "
                    f"'ability L1 ~ ability L2 ~ name', and there is no ability {above!r}{nearest(above, known)}"
                )
            if wish.ability is not None and not f"{wish.topic} ~ ".startswith(f"{wish.ability} ~ "):
                raise UserError(f"{self._where(number, 'topic')}: {wish.topic!r} does not lie under {wish.ability!r}")

    def asked(self, image: str, topics: Sequence[Topic], seed: int) -> dict[str, Any]:
        """What is added to the question about an image. `weights`: what is wished of its topics; `again`: why, where
        it is asked anew; `seed`; `image` and `barred`, for who can tell ids before it answers."""
        mine = [rule for rule in self.rules if any(map(rule.about, topics))]
        weights = [
            {"topics": [topic.path for topic in topics if rule.about(topic)], "task": rule.task, "factor": rule.factor}
            for rule in mine
            if rule.factor != 1
        ]
        better = [rule for rule in mine if rule.want == "better"]
        found: dict[str, Any] = {"weights": weights} if weights else {}
        if tasks := {rule.task: rule.factor > 1 for rule in mine if rule.task and rule.factor != 1}:
            found["tasks"] = [{"task": task, "more": more} for task, more in sorted(tasks.items())]
        if better:
            found["again"] = sorted({rule.reason for rule in better if rule.reason})
            found["seed"] = f"{seed}/{self.digest}"
        if self.barred:
            found |= {"image": image, "barred": sorted(self.barred)}
        return found

    def expect(self, near: Near) -> list[float]:
        """By wish, which share of an image's pairs falls to it over topics in turn; 0 for one about a task, of which
        nobody knows."""
        return [
            0.0 if rule.task or not near else sum(rule.about(topic) for topic, _ in near) / len(near)
            for rule in self.rules
        ]

    def touches(self, near: Near) -> list[int]:
        """By wish, 1 for an image that it is about."""
        return [int(any(rule.about(topic) for topic, _ in near)) for rule in self.rules]

    def count(self, samples: Iterable[Sample]) -> list[int]:
        """By wish, how many samples it is about."""
        found = [0] * len(self.rules)
        for sample in samples:
            for number, rule in enumerate(self.rules):
                found[number] += rule.made(sample)
        return found

    def figures(self, counts: Mapping[str, Sequence[float]], dropped: int, added: int) -> dict[str, Any]:
        """The part `feedback` of the report. `counts`: by name (images, replaced, before, made, kept) a number for each
        wish."""
        rows: list[dict[str, Any]] = []
        for number, (wish, rule) in enumerate(zip(self.told.wishes, self.rules, strict=True)):
            place = {name: value for name, value in zip(PLACE, wish.place, strict=True) if value is not None}
            before = None if rule.task else round(counts["before"][number], 1)
            rows.append(
                {
                    "want": wish.want,
                    **place,
                    "factor": round(rule.factor, 4),
                    "images": int(counts["images"][number]) + int(counts["replaced"][number]),
                    "topics_replaced": int(counts["replaced"][number]),
                    "before": before,
                    "asked": None if before is None else round(before * rule.factor, 1),
                    "made": int(counts["made"][number]),
                    "kept": int(counts["kept"][number]),
                }
            )
        return {
            "file": self.path.name,
            "source": self.told.source,
            "topics_added": added,
            "not_used_again": dropped,
            "wishes": rows,
        }

    def _where(self, number: int, key: str) -> str:
        line = self._lines.get(("wishes", number, key), self._lines.get(("wishes", number)))
        return f"{self.path}{f', line {line}' if line else ''}: wishes.{number}.{key}"


PLACE = ("domain", "ability", "topic", "task")


def read(path: str | Path, tree: LabelTree) -> Wishes:
    """The wishes of a feedback file. Raises UserError as `feedback.read`, and for labels that the tree lacks."""
    path = Path(path)
    told = feedback.read(path)
    found = Wishes(path, told, yaml_file.read(path)[1])
    found.check_labels(tree)
    return found


def lines(part: Mapping[str, Any]) -> Iterator[str]:
    """What a person should know of wishes that led to nothing, in lines."""
    for number, row in enumerate(part["wishes"]):
        if row["want"] != "less" and not row["made"]:
            what = ", ".join(f"{name} {row[name]!r}" for name in PLACE if name in row)
            why = "no image has a topic there" if not row["images"] else "nothing was written there"
            yield f"data.feedback: wish {number} ({row['want']} of {what}) led to no sample: {why}"


def _rule(wish: Wish) -> Rule:
    factor = {"more": 1 + wish.weight, "less": 1 / (1 + wish.weight), "better": 1.0}[wish.want]
    domain, ability = (tuple(name.split(" ~ ")) if name else () for name in (wish.domain, wish.ability))
    return Rule(wish.want, factor, domain, ability, wish.topic, wish.task, wish.reason)


def _under(labels: Sequence[Label], axis: Axis, place: tuple[str, ...]) -> bool:
    return not place or any((one.l1, one.l2)[: len(place)] == place for one in labels if one.axis == axis)


def _near(name: str, known: Iterable[str]) -> str:
    """The nearest topic, if one is near: of hundreds the list would help nobody."""
    found = nearest(name, known)
    return f"{found[:-1]}?" if found.startswith("; did") else "."


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 1.0
