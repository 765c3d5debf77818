"""Preference pairs of the model's own responses, which a function of the recipe's judges (paper §4.1.2)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from PIL import Image

from open4ov.engine import Request
from open4ov.errors import UserError
from open4ov.rl.hallucination import MAX_TOKENS, Progress
from open4ov.rl.preference.drafting import in_turn
from open4ov.rl.preference.human import make_pair
from open4ov.rollouts import Answers
from open4ov.sample import Sample

Score = Callable[[Sample, Sequence[str]], Sequence[float] | Mapping[str, Sequence[float]]]
"""A sample and responses to its question -> a score each, or attribute -> a score each; higher is better"""
RESPONSES = 4


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
    requests = [
        Request(
            messages=[sample.messages[0]],
            images=[get(sha) for sha in sample.images],
            max_tokens=MAX_TOKENS,
            temperature=1.0,
            n=RESPONSES,
            seed=random.Random(f"mined {seed} {sample.id}").getrandbits(31),
        )
        for sample in drawn
    ]

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("answering to be judged", done, total)

    found: list[Sample] = []
    for sample, group in zip(drawn, engine.generate(requests, tell), strict=True):
        texts = list(dict.fromkeys(completion.text.strip() for completion in group if completion.text.strip()))
        if len(texts) > 1 and len(found) < count and (made := judged(sample, texts, score)) is not None:
            found.append(made)
    return found


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
