"""The leakage screen (paper §4.1.2): a sample whose answer survives the removal of its picture is answered by language.

The model answers each question several times without its picture. That it is right now and then proves nothing: whoever
always says "2" is right wherever the answer is 2, eight times out of eight. So what an answer has to beat is a guess:

- q, how often what the model says blind to the *other* questions of the task would be right here. If its blind answers
  say nothing about the single question, all of them are draws from one heap, and of n the right ones are
  Binomial(n, q);
- f, the share of the most frequent reference answer of the task: what a guesser gets who knows the task only.

An answer survives when its pass rate reaches `least` and so many right ones would come of guessing with chance
max(q, f) in at most `level` of the cases (one-sided binomial test). Of questions that need their picture at most that
share is marked falsely.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from PIL import Image

from open4ov.answers import boxed, normalise
from open4ov.rl.rewards import Reward
from open4ov.rollout_book import Book, Cost
from open4ov.rollouts import Answers, Sampling, roll
from open4ov.sample import Sample, without_images

LEAST, LEVEL = 0.5, 0.05
HEAP = 2048
"""Blind responses to other questions, at most, that an answer is compared with"""
FEW = 8
"""Questions of a task below which nothing can be said of how it is guessed: such tasks of a language are taken
together."""


@dataclass(frozen=True)
class Blind:
    """What came of asking without the picture. `guess`: the chance that a guess is right; `decidable`: whether so many
    responses could have told an answer from a guess, had all been right; `said`: what was said most often."""

    right: int
    responses: int
    guess: float
    survives: bool
    decidable: bool
    said: str

    @property
    def record(self) -> dict[str, Any]:
        """For `extra["leakage"]` of a sample."""
        rate = self.right / self.responses
        return {"responses": self.responses, "pass_rate": rate, "guess": round(self.guess, 4), "said": self.said}


def survives(right: int, responses: int, guess: float, least: float = LEAST, level: float = LEVEL) -> bool:
    """Whether `right` of so many blind responses are an answer that language gives away, and no guess.

    `guess`: the chance of a guess; `least`: the pass rate from which an answer counts as known; `level`: of the
    binomial test. Raises ValueError for counts and chances that are none.
    """
    if not 0 <= right <= responses or responses < 1:
        raise ValueError(f"{right} right ones of {responses} responses")
    if not 0 <= guess <= 1 or not 0 < least <= 1 or not 0 < level < 1:
        raise ValueError(f"guess {guess}, least {least} and level {level} must be chances")
    return right >= least * responses and tail(right, responses, guess) <= level


def tail(right: int, responses: int, chance: float) -> float:
    """P(X >= right) for X ~ Binomial(responses, chance)."""
    terms = (comb(responses, k) * chance**k * (1 - chance) ** (responses - k) for k in range(right, responses + 1))
    return min(1.0, sum(terms))


def screen(
    samples: Sequence[Sample],
    said: Mapping[str, Sequence[str]],
    rule: Reward,
    least: float = LEAST,
    level: float = LEVEL,
) -> dict[str, Blind]:
    """For each sample with blind responses (`said[sample.id]`) what came of them.

    `rule`: what it holds for more than 0 is right. What is known counts, in a box or not: `answers.agrees`, or RL's
    reward where that holds more for right.

    Tasks are told apart by name and language. A question that is the only one of its language cannot be told from a
    guess: it does not survive, and is not `decidable`.
    """
    asked = [sample for sample in samples if said.get(sample.id)]
    found: dict[str, Blind] = {}
    for group in _groups(asked):
        heaped = _heaped(group, said)
        heap = sum(heaped.values(), Counter[str]())
        answers = Counter(normalise(sample.answer or "") for sample in group)
        frequent = max(answers.values()) / len(group)
        judged: dict[tuple[str, ...], tuple[dict[str, bool], int]] = {}
        for sample in group:
            key = (sample.answer or "", *sample.aliases)
            if key not in judged:
                hits = {text: bool(rule(text, sample)) for text in heap}
                judged[key] = hits, sum(count for text, count in heap.items() if hits[text])
            hits, all_hits = judged[key]
            own = heaped.get(sample.id, Counter[str]())
            others = all_hits - sum(count for text, count in own.items() if hits[text])
            guess = max(frequent, (others + 1) / (heap.total() - own.total() + 1))
            count = len(said[sample.id])
            right = sum(bool(rule(text, sample)) for text in said[sample.id])
            most = Counter(map(_bare, said[sample.id])).most_common(1)[0][0]
            found[sample.id] = Blind(
                right,
                count,
                guess,
                survives(right, count, guess, least, level),
                tail(count, count, guess) <= level,
                (boxed(most) or most)[:200],
            )
    return {sample.id: found[sample.id] for sample in asked}


def blind(sample: Sample) -> Sample:
    """The sample without its pictures; its words stay."""
    return sample.model_copy(update={"images": [], "messages": [*map(without_images, sample.messages)]})


def ask(
    samples: Sequence[Sample],
    engine: Answers,
    model: str,
    sampling: Sampling,
    book: Book,
    rollouts: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, list[str]], Cost]:
    """`rollouts` responses to each question without its picture, by id, and what they took. `model`: the engine's
    digest; what the book holds already is not asked again."""
    bare = [blind(sample) for sample in samples]
    rolled = roll(bare, {one.id: rollouts for one in bare}, engine, _none, model, sampling, book, progress)
    return {name: [one.response for one in group] for name, group in rolled.groups.items()}, rolled.cost


def report(samples: Iterable[Sample], found: Mapping[str, Blind]) -> dict[str, dict[str, Any]]:
    """By task: how many were asked blind, how many survive and how many could not have, the mean blind pass rate and
    the mean chance of a guess."""
    tasks: dict[str, list[Blind]] = defaultdict(list)
    for sample in samples:
        if sample.id in found:
            tasks[sample.task].append(found[sample.id])
    return {
        task: {
            "asked": len(blinds),
            "survive": sum(one.survives for one in blinds),
            "undecidable": sum(not one.decidable for one in blinds),
            "pass_rate": round(sum(one.right / one.responses for one in blinds) / len(blinds), 4),
            "guess": round(sum(one.guess for one in blinds) / len(blinds), 4),
        }
        for task, blinds in sorted(tasks.items())
    }


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples of one task and language; those of tasks with few of them, of one language."""
    tasks: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        tasks[sample.task, sample.language].append(sample)
    found = [group for group in tasks.values() if len(group) >= FEW]
    rest: dict[str, list[Sample]] = defaultdict(list)
    for (_, language), group in tasks.items():
        if len(group) < FEW:
            rest[language] += group
    return [*found, *rest.values()]


def _heaped(group: Sequence[Sample], said: Mapping[str, Sequence[str]]) -> dict[str, Counter[str]]:
    """What was said to the questions of a group, by id: of all of them, or of so many drawn at random that `HEAP`
    responses are compared with each answer."""
    most = max(2, HEAP // max(len(said[sample.id]) for sample in group))
    chosen = group if len(group) <= most else random.Random("leakage heap").sample(group, most)
    return {sample.id: Counter(map(_bare, said[sample.id])) for sample in chosen}


def _bare(response: str) -> str:
    """What of a response is compared: its box, else all of it."""
    given = boxed(response)
    return response if given is None else f"\\boxed{{{given}}}"


def _none(sha: str) -> Image.Image:
    raise AssertionError(f"a question without its picture asks for picture {sha}")
