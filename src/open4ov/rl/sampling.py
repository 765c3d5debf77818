"""Which prompts online RL is worth its while on (paper §4.1.1): "we apply rejection sampling to exclude trivially
all-correct or all-incorrect training examples".

The rollouts are those of `rollout_book.py`, which grading writes too: what has been sampled there is not sampled again.
RL's own reward judges the responses, whatever grading's verifier has said of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from open4ov.rollout_book import Book
from open4ov.rollouts import Sampling, unaskable
from open4ov.sample import Sample

Reward = Callable[[str, Sample], float]
"""(response, sample) -> 0 or 1"""


@dataclass(frozen=True)
class Mixed:
    """Samples by what the model made of them, each list in the order given. `kept`: some responses right, some wrong;
    `unknown`: with fewer rollouts in the book than asked for; `rates`: id -> pass rate."""

    kept: list[Sample]
    all_right: list[Sample]
    all_wrong: list[Sample]
    unknown: list[Sample]
    rates: dict[str, float]


def mixed(
    samples: Sequence[Sample], book: Book, model: str, sampling: Sampling, reward: Reward, rollouts: int
) -> Mixed:
    """Sorts samples by their first `rollouts` responses in the book; nothing is sampled, and what is missing is said.

    `model`: the digest under which they were sampled (`rollouts.digest`); `sampling`: as they were. A response that was
    cut off is judged like any other, since RL rewards it so. Raises ValueError for a reward that is not 0 or 1.
    """
    found = Mixed([], [], [], [], {})
    for sample in samples:
        group = [] if unaskable(sample) else book.rollouts(sampling.asking(model, sample).key, rollouts)
        if len(group) < rollouts:
            found.unknown.append(sample)
            continue
        rewards = [reward(one.response, sample) for one in group]
        if strange := next((one for one in rewards if one not in (0, 1)), None):
            raise ValueError(f"a reward of {strange:g} is neither right nor wrong")
        found.rates[sample.id] = sum(rewards) / rollouts
        (found.all_right if all(rewards) else found.kept if any(rewards) else found.all_wrong).append(sample)
    return found
