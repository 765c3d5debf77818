"""Preference pairs of the model's own responses (paper §4.1.2): a function of the recipe's judges them, or RL's reward
does.

The latter are meant to keep what online RL has taught: the other pairs of DPO ask a model to see and to answer, none to
count and to work something out."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from PIL import Image

from open4ov.engine import Completion, Request
from open4ov.errors import UserError
from open4ov.recipe_dpo import VERIFIED
from open4ov.rl.hallucination import MAX_TOKENS, Progress
from open4ov.rl.preference.drafting import in_turn
from open4ov.rl.preference.human import make_pair
from open4ov.rl.rewards import Reward, graded_groups
from open4ov.rl.tasks import Task
from open4ov.rollouts import Answers
from open4ov.sample import Message, Sample

Score = Callable[[Sample, Sequence[str]], Sequence[float] | Mapping[str, Sequence[float]]]
"""A sample and responses to its question -> a score each, or attribute -> a score each; higher is better"""
RESPONSES = 4
AT_ONCE = 512
"""Tasks of RL that are asked together: their pictures are in memory"""


def mine(
    samples: Sequence[Sample],
    count: int,
    engine: Answers,
    get: Callable[[str], Image.Image],
    score: Score,
    seed: int,
    progress: Progress | None = None,
) -> list[Sample]:
    """At most `count` pairs of the model's own responses: each question is answered `RESPONSES` times, and the best
    response is chosen over the worst where their scores differ.

    Scores by attribute are added up, and stay with the pair. Raises UserError for a function that gives anything but
    one number for each response.
    """
    usable = [s for s in samples if [m.role for m in s.messages] == ["user", "assistant"]]
    drawn = in_turn(usable, 2 * count, random.Random(f"mined {seed}"))  # half of them are answered all alike, say
    asked = [(sample, [sample.messages[0]], [get(sha) for sha in sample.images]) for sample in drawn]
    found: list[Sample] = []
    for sample, group in zip(drawn, _answers(engine, asked, MAX_TOKENS, "mined", seed, progress), strict=True):
        texts = list(dict.fromkeys(completion.text.strip() for completion in group if completion.text.strip()))
        if len(texts) > 1 and len(found) < count and (made := judged(sample, texts, score)) is not None:
            found.append(made)
    return found


def verify(
    tasks: Sequence[Task],
    count: int,
    engine: Answers,
    reward: Reward,
    name: str,
    max_tokens: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Sample]:
    """At most `count` pairs of the model's own responses to tasks of online RL, at most one of a task: its shortest
    right response is chosen over a wrong one. Tasks that it answers always or never rightly make none.

    `reward`, in the recipe `name`, says what is right; `max_tokens`: of a response. A response that was cut off is
    neither chosen nor rejected. Raises UserError as `graded_groups` does.
    """
    order = random.Random(f"verified {seed}").sample(tasks, len(tasks))
    found: list[Sample] = []
    while order and len(found) < count:
        size = min(2 * (count - len(found)), AT_ONCE)  # half of them are answered all alike, say
        drawn, order = order[:size], order[size:]
        found += _verified(drawn, engine, reward, name, max_tokens, seed, progress)
    return found[:count]


def _verified(
    drawn: Sequence[Task],
    engine: Answers,
    reward: Reward,
    name: str,
    max_tokens: int,
    seed: int,
    progress: Progress | None,
) -> list[Sample]:
    asked = [(task.sample, task.prompt, task.images) for task in drawn]
    groups = [
        [one for one in group if one.finish_reason == "stop" and one.text.strip()]
        for group in _answers(engine, asked, max_tokens, VERIFIED, seed, progress)
    ]
    found: list[Sample] = []
    rewards = graded_groups(reward, name, groups, [task.sample for task in drawn])
    for task, group, values in zip(drawn, groups, rewards, strict=True):
        right = [one for one, value in zip(group, values, strict=True) if float(value) == 1]
        wrong = [one for one, value in zip(group, values, strict=True) if float(value) == 0]
        if right and wrong:
            chosen = min(right, key=lambda one: len(one.token_ids)).text.strip()
            found.append(make_pair(task.sample, chosen, wrong[0].text.strip(), VERIFIED, prompt=task.prompt))
    return found


def _answers(
    engine: Answers,
    asked: Sequence[tuple[Sample, list[Message], list[Image.Image]]],
    max_tokens: int,
    what: str,
    seed: int,
    progress: Progress | None,
) -> list[list[Completion]]:
    """`RESPONSES` to each prompt with its pictures, at temperature 1."""
    requests = [
        Request(
            messages=prompt,
            images=images,
            max_tokens=max_tokens,
            temperature=1.0,
            n=RESPONSES,
            seed=random.Random(f"{what} {seed} {sample.id}").getrandbits(31),
        )
        for sample, prompt, images in asked
    ]

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(f"answering for {what} pairs", done, total)

    return engine.generate(requests, tell) if requests else []


def judged(sample: Sample, texts: Sequence[str], score: Score) -> Sample | None:
    """The pair of the best and the worst response; None when none is better. Raises UserError as `mine` does."""
    given = score(sample, texts)
    scores: dict[str, Sequence[float]] = dict(given) if isinstance(given, Mapping) else {"score": given}
    for name, values in scores.items():
        numbers = all(isinstance(cast("object", value), int | float) and value == value for value in values)
        if len(values) != len(texts) or not numbers:
            raise UserError(f"dpo.mined: {name}: {len(texts)} responses want a number each, got {list(values)!r:.80}")
    total = [sum(column) for column in zip(*scores.values(), strict=True)]
    best, worst = max(range(len(texts)), key=total.__getitem__), min(range(len(texts)), key=total.__getitem__)
    if total[best] == total[worst]:
        return None
    told = {name: {"chosen": float(v[best]), "rejected": float(v[worst])} for name, v in scores.items()}
    return make_pair(sample, texts[best], texts[worst], "mined", attributes=told)
