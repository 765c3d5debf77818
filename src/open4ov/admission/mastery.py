"""Rejection sampling for difficulty (paper §3.2.2-3.2.3): how often does the current model answer a sample rightly?

The cost is bounded: at most a stated number of samples are rolled out, spread over the topics; the others take the
mean pass rate of their topic (`extra["graded_by"]` says which it was).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import fmean

from PIL import Image

from open4ov.engine import Engine, Request
from open4ov.sample import Sample, mastery_of

Verifier = Callable[[str, str, Sequence[str]], bool]


def grade(
    samples: Sequence[Sample],
    engine: Engine,
    image: Callable[[str], Image.Image],
    verifier: Verifier,
    rollouts: int,
    limit: int,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Sample]:
    """The samples, in their order, with `pass_rate` and `mastery` where they or their topic could be graded.

    `limit` samples at most are answered `rollouts` times at temperature 1; only single questions with a reference
    answer can be. `verifier(response, answer, aliases)` decides.
    """
    chosen = choose(samples, limit, seed)
    requests = [
        Request(
            messages=samples[i].messages[:1],
            images=[image(sha) for sha in samples[i].images],
            max_tokens=64,
            temperature=1.0,
            n=rollouts,
            seed=random.Random(f"difficulty {seed} {samples[i].id}").getrandbits(31),
        )
        for i in chosen
    ]
    done = None if progress is None else lambda count, total: progress("grading difficulty", count, total)
    rates: dict[int, float] = {}
    for i, group in zip(chosen, engine.generate(requests, done), strict=True):
        answer = samples[i].answer
        assert answer is not None
        rates[i] = fmean(verifier(completion.text, answer, samples[i].aliases) for completion in group)
    topics: dict[str, list[float]] = {}
    for i, rate in rates.items():
        topics.setdefault(topic(samples[i]), []).append(rate)
    graded: list[Sample] = []
    for i, sample in enumerate(samples):
        shared = topics.get(topic(sample))
        if i in rates:
            graded.append(_with(sample, rates[i], "rollouts"))
        elif shared:
            graded.append(_with(sample, fmean(shared), "topic"))
        else:
            graded.append(sample)
    return graded


def choose(samples: Sequence[Sample], limit: int, seed: int) -> list[int]:
    """Indices of the samples to roll out: one of each topic in turn, at random inside a topic, at most `limit`."""
    rng = random.Random(f"difficulty choice {seed}")
    topics: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        if sample.answer is not None and [m.role for m in sample.messages] == ["user", "assistant"]:
            topics.setdefault(topic(sample), []).append(i)
    for members in topics.values():
        rng.shuffle(members)
    queues = [topics[name] for name in sorted(topics)]
    rng.shuffle(queues)
    chosen: list[int] = []
    depth = 0
    while len(chosen) < limit and any(depth < len(queue) for queue in queues):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
        depth += 1
    return sorted(chosen[:limit])


def topic(sample: Sample) -> str:
    """What samples share a grade by: the first topic, else the task; and the language."""
    return f"{sample.language}/{sample.topics[0] if sample.topics else sample.task}"


def _with(sample: Sample, rate: float, source: str) -> Sample:
    return sample.model_copy(
        update={"pass_rate": rate, "mastery": mastery_of(rate), "extra": {**sample.extra, "graded_by": source}}
    )
