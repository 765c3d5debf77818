"""Which prompts online RL is worth its while on (paper §4.1.1): "we apply rejection sampling to exclude trivially
all-correct or all-incorrect training examples".

The rollouts are those of `rollout_book.py`, which grading writes too: what has been sampled there is not sampled again.
RL's own verifier judges the responses, whatever grading's has said of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from open4ov.rollout_book import Book, rule_key
from open4ov.rollouts import Sampling, reference, unaskable
from open4ov.sample import Sample
from open4ov.verifier import Verifier


@dataclass(frozen=True)
class Mixed:
    """Samples by what the model made of them, each list in the order given. `kept`: some responses right, some wrong;
    `unknown`: with fewer rollouts in the book than asked for, or none with a verdict; `rates`: id -> pass rate."""

    kept: list[Sample]
    all_right: list[Sample]
    all_wrong: list[Sample]
    unknown: list[Sample]
    rates: dict[str, float]


def mixed(
    samples: Sequence[Sample], book: Book, model: str, sampling: Sampling, verifier: Verifier, rollouts: int
) -> Mixed:
    """Sorts samples by their first `rollouts` responses in the book; nothing is sampled, and what is missing is said.

    `model`: the digest under which they were sampled (`rollouts.digest`); `sampling`: as they were. A response that was
    cut off counts as wrong; one without a verdict does not count.
    """
    found = Mixed([], [], [], [], {})
    for sample in samples:
        answer = reference(sample)
        if unaskable(sample):
            found.unknown.append(sample)
            continue
        asking = sampling.asking(model, sample)
        group = book.rollouts(asking.key, rollouts)
        rule = rule_key(verifier.identity or "", answer, sample.aliases)
        said: list[bool] = []
        fresh: list[tuple[bytes, int, bytes, bool]] = []
        for one in group if len(group) == rollouts else ():
            right = (
                False if one.truncated else book.verdict(asking.key, one.number, rule) if verifier.identity else None
            )
            if right is None:
                right = verifier.verdict(one.response, answer, sample.aliases).right
                if right is not None:
                    fresh.append((asking.key, one.number, rule, right))
            if right is not None:
                said.append(right)
        if fresh and verifier.identity:
            book.judged(fresh)
        if not said:
            found.unknown.append(sample)
            continue
        found.rates[sample.id] = sum(said) / len(said)
        (found.all_right if all(said) else found.kept if any(said) else found.all_wrong).append(sample)
    return found
