"""The order of samples: by difficulty, one task after another, two lists in one, and by picture (paper §3.2.3).

All of it is a pure function of the samples and a seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest

from open4ov.sample import Sample

LEVELS = {"mastered": 0.0, "partial": 0.5, None: 0.75, "unmastered": 1.0}
"""Place of each mastery in the difficulty order; samples that were not graded stand between partial and unmastered."""


def by_difficulty(samples: Sequence[Sample], noise: float, seed: int | str, gather: bool = False) -> list[Sample]:
    """Easy to hard: sorted by the level of `LEVELS` plus a random part in [0, noise).

    With noise 0 the levels are strictly one after another; a small model then forgets the easy tasks while it sees
    only hard ones. With noise 1 (default of the recipe) the levels overlap and the mean difficulty rises. `gather`:
    samples about one picture have the same random part, so that those of one level stand together; each sample's place
    is distributed as before.
    """
    rng = random.Random(f"difficulty {seed}")
    if gather:
        places = _places(samples, rng)
        keys = [LEVELS[sample.mastery] + (noise + 1e-9) * place for sample, place in zip(samples, places, strict=True)]
    else:
        keys = [LEVELS[sample.mastery] + noise * rng.random() + 1e-9 * rng.random() for sample in samples]
    return [samples[i] for i in sorted(range(len(samples)), key=keys.__getitem__)]


def by_picture(samples: Sequence[Sample], seed: int | str) -> list[Sample]:
    """Shuffled, those about one picture together."""
    places = _places(samples, random.Random(f"pictures {seed}"))
    return [samples[i] for i in sorted(range(len(samples)), key=places.__getitem__)]


def _places(samples: Sequence[Sample], rng: random.Random) -> list[float]:
    """A random number in [0, 1) for each sample, equal for those about the same picture. A sample that comes again,
    in another epoch, has another one."""
    places: dict[tuple[int, str], float] = {}
    seen: Counter[str] = Counter()
    found: list[float] = []
    for sample in samples:
        about = (seen[sample.id], sample.images[0] if sample.images else sample.id)
        seen[sample.id] += 1
        found.append(places.setdefault(about, rng.random()))
    return found


def in_turn(samples: Sequence[Sample]) -> list[Sample]:
    """One sample of each task in turn, each task's in the order given; tasks that run out fall silent."""
    tasks: dict[str, list[Sample]] = {}
    for sample in samples:
        tasks.setdefault(sample.task, []).append(sample)
    rounds = zip_longest(*tasks.values())
    return [sample for one_of_each in rounds for sample in one_of_each if sample is not None]


def spread(main: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    """Both lists in their own order, the shorter one spread evenly over the longer one."""
    long, short = (main, others) if len(main) >= len(others) else (others, main)
    if not short:
        return list(long)
    cuts = [round(i * len(long) / len(short)) for i in range(len(short) + 1)]
    pieces = (list(long[a:b]) for a, b in pairwise(cuts))

    def woven() -> Iterator[Sample]:
        for piece, one in zip_longest(pieces, short):
            yield from piece or ()
            if one is not None:
                yield one

    return list(woven())
