"""A preference sample under construction, and the book that keeps the set free of repetitions and contradictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from open4ov.answers import normalise
from open4ov.sample import Message, Sample, content_id


@dataclass
class Draft:
    """`parts`: the samples it is made from; `answers`: the reference of each of its questions, in their order, None
    where it hangs on what was said before; `answered`: the part whose reference holds for a single question."""

    kind: str
    parts: Sequence[Sample]
    messages: list[Message]
    images: list[str]
    answers: Sequence[str | None]
    answered: Sample | None = None
    answer: str | None = None
    """The reference of the whole, where no part has it"""
    checks: dict[str, bool] = field(default_factory=dict[str, bool])
    about: dict[str, object] = field(default_factory=dict[str, object])
    """What goes into `extra` beside the kind: the style asked for, a needle's place"""

    def sample(self) -> Sample:
        """The finished sample; `lineage` names the parts, `extra["preference"]` the kind."""
        first, one = self.parts[0], self.answered
        return Sample(
            id=content_id(
                "preference", self.kind, self.images, [m.model_dump(exclude_none=True) for m in self.messages]
            ),
            source=first.source,
            split=first.split,
            task=one.task if one else first.task,
            language=first.language,
            images=list(self.images),
            messages=list(self.messages),
            answer=one.answer if one else self.answer,
            aliases=one.aliases if one else [],
            labels=one.labels if one else [],
            topics=one.topics if one else [],
            checks=dict(self.checks),
            lineage=list(dict.fromkeys(part.id for part in self.parts)),
            extra={"preference": self.kind, **self.about},
        )


class Book:
    """What was asked so far, of which picture, and how it was answered."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], str] = {}
        self._seen: set[str] = set()
        self.repeated = self.contradicted = 0

    def take(self, draft: Draft) -> Sample | None:
        """The finished sample; None, and counted, when the same conversation is there already, of whatever kind, or a
        question of it was answered otherwise before."""
        asked = _questions(draft.messages, draft.images)
        answers = [None if answer is None else normalise(answer) for answer in draft.answers]
        assert len(asked) == len(answers), f"{draft.kind}: {len(asked)} questions with {len(answers)} answers"
        return draft.sample() if self._enter(draft.messages, draft.images, asked, answers) else None

    def admits(self, sample: Sample) -> bool:
        """Whether a sample that is finished already can stand beside the others: it is entered then."""
        asked = _questions(sample.messages, sample.images)
        answer = None if sample.answer is None or len(asked) != 1 else normalise(sample.answer)
        return self._enter(sample.messages, sample.images, asked, [answer] * len(asked))

    def _enter(
        self,
        messages: Sequence[Message],
        images: Sequence[str],
        asked: Sequence[tuple[str, str]],
        answers: Sequence[str | None],
    ) -> bool:
        pairs = [(key, answer) for key, answer in zip(asked, answers, strict=True) if answer is not None]
        if any(self._told.get(key, answer) != answer for key, answer in pairs):
            self.contradicted += 1
            return False
        name = content_id(list(images), [m.model_dump(exclude_none=True) for m in messages])
        if name in self._seen:
            self.repeated += 1
            return False
        self._seen.add(name)
        self._told.update(pairs)
        return True


def _questions(messages: Sequence[Message], images: Sequence[str]) -> list[tuple[str, str]]:
    """Each question with the picture that was shown last before it."""
    shown, found = "", list[tuple[str, str]]()
    for message in messages:
        for part in message.content:
            if part.type == "image" and part.index is not None:
                shown = images[part.index]
        if message.role == "user":
            found.append((shown, normalise(message.text)))
    return found
