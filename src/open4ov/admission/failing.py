"""Where a model fails after the short training, by label, and what data construction is to do about it (paper §3.2.2).

Groups. A held-out question belongs to the finest of (domain, ability, topic, task), (domain, ability, task), (domain,
task), (task) that has at least `LEAST` of them. A question without labels takes those that samples of the new data
have about the same subject (the one object of its scene), where there are such.

The rule, for each group, on the questions asked before and after; the first that fits:

    better   samples of it answer in another language than they are labelled with, or ask the same of the same picture
             and answer differently: seen in the data themselves
    better   more answers were lost than gained, and not by chance (McNemar's exact test, one-sided, at `CHANCE`): what
             was taught is wrong
    -        the share of right answers is `ENOUGH` or more
    better   it has not risen, though the model now says more of what the new data say about
             their own questions (by `LEARNED` at least): what it learned is not what a trusted probe holds for right
    better   nor has that: the data say something else each time, so that nothing can be learned of them
    more     the share has risen, and is below `ENOUGH`: right, but too little. The weight is ENOUGH over the share
             reached, between 1.25 and 4

In a rejected set a rise counts from `gain` on: answers of the right form are right now and then, whatever the data say.
The general set's groups are shown, with what they have lost (`Group.harm`), and wish for nothing: a wish is obeyed by
the construction of the vertical's data, and what general ability is lost stage 2 makes good (§3.2.3). "better" for what
has not risen is said only when the verdict is not to admit: in an admitted set such a group has too few samples, and
the wish is `more`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from open4ov.admission import paired
from open4ov.admission.assess import Asked
from open4ov.admission.criteria import Verdict
from open4ov.feedback import Feedback, Wish
from open4ov.sample import Sample

LEAST = 8
CHANCE = 0.1
LEARNED = 0.1
ENOUGH = 0.8
NAMED = 20
"""Most sample ids that a wish names, but for those that are seen to be wrong: all of them are, to be barred"""

Place = tuple[str | None, str | None, str | None, str | None]
"""domain, ability, topic, task"""


@dataclass(frozen=True)
class Group:
    """Questions of one probe that belong together. `samples`: those of the new data that taught it."""

    probe: str
    place: Place
    asked: list[Asked]
    own: list[Asked] = field(default_factory=list[Asked])
    samples: list[Sample] = field(default_factory=list[Sample])

    @property
    def before(self) -> float:
        return sum(one.right[0] for one in self.asked) / len(self.asked)

    @property
    def after(self) -> float:
        return sum(one.right[1] for one in self.asked) / len(self.asked)

    @property
    def lost(self) -> list[Asked]:
        return [one for one in self.asked if one.right[0] and not one.right[1]]

    @property
    def wrong(self) -> list[Asked]:
        return [one for one in self.asked if not one.right[1]]

    @property
    def harm(self) -> str:
        """What a general group has lost, where that is no chance; else empty."""
        gained = sum(one.right[1] and not one.right[0] for one in self.asked)
        if self.probe != "general" or len(self.lost) <= gained:
            return ""
        if paired.below(paired.Pairs(len(self.asked), gained, len(self.lost)), 0) > CHANCE:
            return ""
        return f"general ability lost: {self.before:.0%} → {self.after:.0%} of {len(self.asked)} questions"

    @property
    def title(self) -> str:
        return " · ".join(part for part in self.place if part)


@dataclass(frozen=True)
class Flaws:
    """What is wrong with the new data, seen without a model: ids of samples that answer in another language than they
    say, and of those that contradict another one about the same picture and question."""

    language: list[str]
    contradicting: list[str]


def flaws(batch: Sequence[Sample], answers_in: Callable[[str, str], bool]) -> Flaws:
    """`answers_in(text, language)`: whether a response may be one in that language."""
    other = [
        s.id for s in batch if not all(answers_in(m.text, s.language) for m in s.messages if m.role == "assistant")
    ]
    said: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for sample in batch:
        if sample.images and [m.role for m in sample.messages] == ["user", "assistant"]:
            question, answer = (" ".join(m.text.casefold().split()) for m in sample.messages)
            said.setdefault((*sample.images, question), {}).setdefault(answer, []).append(sample.id)
    torn = [name for answers in said.values() if len(answers) > 1 for names in answers.values() for name in names]
    return Flaws(other, sorted(torn))


def groups(asked: Sequence[Asked], questions: Mapping[str, Sample], batch: Sequence[Sample], probe: str) -> list[Group]:
    """The groups of a probe's questions, those with most lost answers first, then those with most wrong ones."""
    lent = _Lent(batch)
    places = {one.id: lent.place(questions[one.id]) for one in asked if one.probe == probe}
    left = [one for one in asked if one.probe == probe]
    own = [(lent.place(questions[one.id]), one) for one in asked if one.probe == "own"]
    taught = [(lent.place(sample), sample) for sample in batch] if probe == "vertical" else []
    found: list[Group] = []
    for level in _LEVELS:
        counts = Counter(_cut(places[one.id], level) for one in left)
        whole = {place for place, count in counts.items() if count >= LEAST or level is _LEVELS[-1]}
        for place in sorted(whole, key=str):
            found.append(
                Group(
                    probe,
                    place,
                    [one for one in left if _cut(places[one.id], level) == place],
                    [one for where, one in own if probe == "vertical" and _cut(where, level) == place],
                    [sample for where, sample in taught if _cut(where, level) == place],
                )
            )
        left = [one for one in left if _cut(places[one.id], level) not in whole]
    return sorted(found, key=lambda group: (-len(group.lost), -len(group.wrong), group.title))


def wishes(found: Iterable[Group], verdict: Verdict, seen: Flaws, gain: float = 0.0) -> list[Wish]:
    """What data construction is asked for, by the rule above, of the vertical's groups. `gain`: the rise that the
    assessment asked for."""
    made: list[Wish] = []
    for group in found:
        told = None if group.probe == "general" else _vertical(group, verdict, seen, gain)
        if told is None:
            continue
        want, reason, weight, samples = told
        domain, ability, topic, task = group.place
        made.append(
            Wish(
                want="better" if want == "better" else "more",
                domain=domain,
                ability=ability,
                topic=topic,
                task=task,
                weight=weight,
                reason=reason,
                asked=len(group.asked),
                failed=len(group.wrong),
                samples=samples,
            )
        )
    return made


def feedback(made: list[Wish], source: str, labels: str = "") -> Feedback:
    return Feedback(source=source, labels=labels, wishes=made)


Told = tuple[str, str, float, list[str]]


def _vertical(group: Group, verdict: Verdict, seen: Flaws, gain: float) -> Told | None:
    shares = f"{group.before:.0%} → {group.after:.0%} of {len(group.asked)} questions"
    names = [sample.id for sample in group.samples]
    told: list[str] = []
    for flawed, what in (
        (seen.language, "answer in another language than they are labelled with"),
        (seen.contradicting, "contradict another sample about the same picture and question"),
    ):
        if bad := len(set(names).intersection(flawed)):
            told.append(f"{bad} of {len(names)} samples {what}")
    if told:
        wrong = {*seen.language, *seen.contradicting}
        return "better", f"{'; '.join(told)}; {shares}", 1.0, [name for name in names if name in wrong]
    gained, lost = sum(one.right[1] and not one.right[0] for one in group.asked), len(group.lost)
    if lost > gained and paired.below(paired.Pairs(len(group.asked), gained, lost), 0) <= CHANCE:
        return "better", f"worse than before the training: {shares}", 1.0, names[:NAMED]
    if group.after >= ENOUGH:
        return None
    if group.after - group.before <= (gain if verdict == "reject" else 0):
        if verdict == "admit":
            return "more", f"not better yet: {shares}", 2.0, []
        learned = _share(group.own, 1) - _share(group.own, 0)
        why = (
            "the model learned what the data say, and that is not what the probe holds for right"
            if group.own and learned >= LEARNED
            else "nothing was learned from the data"
        )
        return "better", f"{why}: {shares}", 1.0, names[:NAMED]
    weight = round(min(4.0, max(1.25, ENOUGH / group.after)), 2)
    return "more", f"better, but not enough: {shares}", weight, []


def _share(own: Sequence[Asked], which: int) -> float:
    return sum(one.right[which] for one in own) / len(own) if own else 0.0


_LEVELS = ((0, 1, 2, 3), (0, 1, 3), (0, 3), (3,))


def _cut(place: Place, level: Sequence[int]) -> Place:
    """The place with only the parts of a level."""
    domain, ability, topic, task = (part if number in level else None for number, part in enumerate(place))
    return domain, ability, topic, task


def placer(batch: Sequence[Sample]) -> Callable[[Sample], Place]:
    """Gives a question its place, as `groups` does: by its own labels, or by those of samples about the same
    subject."""
    return _Lent(batch).place


class _Lent:
    """The place of a sample by its own labels, or by those of the new data's samples about the same subject."""

    def __init__(self, batch: Sequence[Sample]) -> None:
        self._known: dict[tuple[str, str], Counter[tuple[str | None, str | None, str | None]]] = {}
        for sample in batch:
            subject = _subject(sample)
            if subject and (sample.labels or sample.topics):
                self._known.setdefault((subject, sample.task), Counter())[_labels(sample)] += 1

    def place(self, sample: Sample) -> Place:
        labels = _labels(sample)
        subject = _subject(sample)
        if not any(labels) and subject and (known := self._known.get((subject, sample.task))):
            labels = max(known.items(), key=lambda item: (item[1], str(item[0])))[0]
        return (*labels, sample.task)


def _labels(sample: Sample) -> tuple[str | None, str | None, str | None]:
    first: dict[str, str] = {}
    for label in sample.labels:
        first.setdefault(label.axis, f"{label.l1} ~ {label.l2}" if label.l2 else label.l1)
    return first.get("domain"), first.get("ability"), sample.topics[0] if sample.topics else None


def _subject(sample: Sample) -> str | None:
    things: object = (sample.scene or {}).get("objects")
    if not isinstance(things, list) or len(found := cast("list[Any]", things)) != 1:
        return None
    name: object = cast("dict[str, Any]", found[0]).get("name") if isinstance(found[0], dict) else None
    return None if name is None else str(name)
