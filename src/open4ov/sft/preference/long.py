"""Long context (paper §3.2.3): conversations up to the token limit, and facts that are asked for at their end.

- long_context: several pictures, each with its questions, and questions without one between them
- needle: a fact told in one of many turns, or shown in one of many pictures, is asked for last; the places of the
  needles are spread evenly over the conversation, and their answers stand nowhere else in it
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from open4ov.answers import normalise, words
from open4ov.corpora import needle
from open4ov.sample import Message, Sample, assistant, user
from open4ov.sft.preference.draft import Draft
from open4ov.sft.preference.pool import LANGUAGES, Group, Pool

LEAST, MOST = 0.25, 0.9
"""Lengths that are aimed at, as shares of the limit."""
APART = 0.2
"""Chance of a question without a picture between two pictures."""
ABOUT = {"en": ("About picture {}: ", "In picture {}: "), "zh": ("关于第{}张图：", "在第{}张图里：")}
LAST = 16
"""Tokens that the question at the end takes, about."""
_GOLDEN = 0.6180339887498949


def estimate(sample: Sample) -> int:
    """About how many tokens a sample takes, where no tokenizer is at hand."""
    text = sum(6 + 2 * len(words(message.text)) for message in sample.messages)
    return text + 64 * len(sample.images)


class Long:
    """Draws from a pool. `length`: tokens of a sample; `longest`: the limit of a conversation."""

    def __init__(self, pool: Pool, length: Callable[[Sample], int], longest: int, pictures: int) -> None:
        self.pool, self.length, self.longest, self.most = pool, length, longest, pictures
        self.pictured = [name for name in LANGUAGES if len(pool.pictures[name]) > 1]
        self.worded = [name for name in LANGUAGES if len(pool.texts[name]) > 1]
        self.asked = [
            name for name in LANGUAGES if len(pool.pictures[name]) > 1 and any(len(g) > 1 for g in pool.pictures[name])
        ]
        self._drawn = 0

    def missing(self, kind: str) -> str | None:
        if kind == "long_context":
            return None if self.pictured else "there are not two pictures with questions in one language"
        return (
            None if self.worded or self.asked else "there are neither two questions without a picture nor two pictures"
        )

    def draw(self, kind: str, rng: random.Random) -> Draft | None:
        """One sample of a kind that is not missing; None when the draw does not fit together, or is too long."""
        self._drawn += 1
        target = self.longest * (LEAST + (MOST - LEAST) * rng.random())
        depth = self._drawn * _GOLDEN % 1.0
        if kind == "long_context":
            draft = self._several(rng.choice(self.pictured), target, rng)
        elif self.asked and (not self.worded or rng.random() < 0.5):
            draft = self._picture(rng.choice(self.asked), target, depth, rng)
        else:
            draft = self._text(rng.choice(self.worded), target, depth, rng)
        return draft if draft is not None and self.length(draft.sample()) <= self.longest else None

    def _several(self, language: str, target: float, rng: random.Random) -> Draft | None:
        built = _Conversation()
        texts = self.pool.texts[language]
        for group in self._groups(language, self.most, rng):
            for place, sample in enumerate(rng.sample(group, min(len(group), rng.randint(1, 3)))):
                if built.size + self.length(sample) > target and len(built.images) > 1:
                    break
                built.add(sample, self.length(sample), shown=place == 0)
            if texts and rng.random() < APART and built.size < target:
                other = rng.choice(texts)
                built.add(other, self.length(other), shown=False)
            if built.size >= target:
                break
        return built.draft("long_context") if len(built.images) > 1 else None

    def _picture(self, language: str, target: float, depth: float, rng: random.Random) -> Draft | None:
        """Many pictures with a question each; in the end something else is asked about one of them."""
        groups, size = list[Group](), 0.0
        for group in self._groups(language, self.most, rng):
            size += self.length(group[0])
            if size + LAST > target and len(groups) > 1:
                break
            groups.append(group)
        at = min(int(depth * len(groups)), len(groups) - 1)
        if len(groups[at]) < 2:
            several = [place for place, group in enumerate(groups) if len(group) > 1]
            if not several:
                return None
            groups[at], groups[several[0]] = groups[several[0]], groups[at]
        built, last = _Conversation(), None
        for place, group in enumerate(groups):
            first, *others = rng.sample(group, len(group))
            built.add(first, self.length(first), shown=True)
            last = others[0] if place == at else last
        if last is None or not last.answer:
            return None
        question = rng.choice(ABOUT[language]).format(at + 1) + last.messages[0].text
        if _stands(last.answer, [*built.messages, user(question)]):
            return None
        built.say(question, last.messages[1].text, last)
        about = {"of": "picture", "depth": round((at + 0.5) / len(groups), 4), "at": at, "among": len(groups)}
        return built.draft("needle", last, {"needle": about})

    def _text(self, language: str, target: float, depth: float, rng: random.Random) -> Draft | None:
        """Many turns of other things; in the end the fact is asked for that one of them told."""
        fillers, size, texts = list[Sample](), 3.0 * LAST, self.pool.texts[language]
        for sample in rng.sample(texts, min(len(texts), int(target / 8) + 2)):
            size += self.length(sample)
            if size > target and len(fillers) > 1:
                break
            fillers.append(sample)
        turns = [(s.messages[0].text, s.messages[1].text) for s in fillers]
        context = " ".join(text for turn in turns for text in turn)
        try:
            needles = needle.facts(rng, language, fillers[0].split, rng.randint(1, 3), context)
        except ValueError:  # not so many words that the haystack does not hold
            return None
        hidden = needle.hide(turns, [self.length(s) for s in fillers], depth, needles, rng)
        messages = [m for question, response in hidden.turns for m in (user(question), assistant(response))]
        about = {"of": "text", "depth": round(hidden.depth, 4), "at": hidden.at, "among": len(fillers)}
        nothing = [None] * len(hidden.turns)
        return Draft("needle", fillers, messages, [], nothing, answer=hidden.answer, about={"needle": about})

    def _groups(self, language: str, count: int, rng: random.Random) -> list[Group]:
        """Different pictures in random order, `count` at most; many more are never drawn than are needed."""
        groups = self.pool.pictures[language]
        return rng.sample(groups, min(len(groups), count))


class _Conversation:
    """Turns and pictures end to end."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.images: list[str] = []
        self.parts: list[Sample] = []
        self.answers: list[str | None] = []
        self.size = 0

    def add(self, sample: Sample, size: int, shown: bool) -> None:
        shown = shown and bool(sample.images)
        question = user(sample.messages[0].text, images=int(shown), first_image=len(self.images))
        self.images += sample.images if shown else []
        self.messages += [question, sample.messages[1]]
        self.parts.append(sample)
        self.answers.append(sample.answer or sample.messages[1].text)
        self.size += size

    def say(self, question: str, response: str, part: Sample) -> None:
        """A turn whose answer hangs on what was said and shown before."""
        self.messages += [user(question), assistant(response)]
        self.parts.append(part)
        self.answers.append(None)

    def draft(self, kind: str, last: Sample | None = None, about: dict[str, object] | None = None) -> Draft:
        answer = last.answer if last else None
        return Draft(kind, self.parts, self.messages, self.images, self.answers, answer=answer, about=about or {})


def _stands(answer: str, messages: Sequence[Message]) -> bool:
    return normalise(answer) in normalise(" ".join(message.text for message in messages))
