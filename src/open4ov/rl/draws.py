"""Samples drawn so that no task stands for all."""

from __future__ import annotations

import random
from collections.abc import Sequence

from open4ov.sample import Sample


def in_turn(samples: Sequence[Sample], count: int, rng: random.Random) -> list[Sample]:
    """`count` samples at random, one of each language and task in turn; fewer if there are not so many."""
    tasks: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        tasks.setdefault((sample.language, sample.task), []).append(sample)
    queues = [tasks[key] for key in sorted(tasks)]
    for queue in queues:
        rng.shuffle(queue)
    chosen: list[Sample] = []
    for depth in range(max(map(len, queues), default=0)):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
        if len(chosen) >= count:
            break
    return chosen[:count]
