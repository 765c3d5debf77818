"""How many different things does a model say to the same prompt? (paper §6.3, Fig. 10b; NoveltyBench)

NoveltyBench partitions the responses greedily: each joins the first class whose first member it is equivalent to.
`distinct` counts the classes; `utility` is what a patient reader gets out of the responses one after another: the
quality of each that opens a class, 0 for each that says what one before it said, weighted by 0.8^i (the reader goes on
with probability 0.8) and divided by the sum of the weights.

What is equivalent is a function of two texts, and pluggable (`evaluate.equivalence`). Two short texts (at most five
words) are equivalent when twice their shared words reach the longer one's length. For longer texts NoveltyBench asks a
DeBERTa classifier, which ships in no package: here they are equivalent when their word F1 is at least `LONG_F1` and
they name the same numbers (two derivations that differ in a number differ).

Besides: the entropy of the classes, and the mean similarity of the responses by an encoder (self-similarity).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from open4ov.answers import boxed
from open4ov.answers import same as same_value
from open4ov.evaluate.metrics import token_f1, words
from open4ov.mllm.embedding import embed_texts

SHORT_WORDS = 5
LONG_F1 = 0.8
PATIENCE = 0.8

Equivalence = Callable[[str, str], bool]
Encoder = Callable[[Sequence[str]], npt.NDArray[Any]]
"""N texts -> [N, D]"""


def equivalent(left: str, right: str) -> bool:
    """Whether two responses say the same, by the rule above; numbers that differ always tell them apart."""
    a, b = words(left), words(right)
    if a == b:
        return True
    if len(a) <= SHORT_WORDS and len(b) <= SHORT_WORDS:
        shared = (Counter(a) & Counter(b)).total()
        return 2 * shared >= max(len(a), len(b)) and _numbers(left) == _numbers(right)
    return token_f1(left, right) >= LONG_F1 and _numbers(left) == _numbers(right)


def unigrams(left: str, right: str) -> bool:
    """NoveltyBench's own rule for short texts, to the letter: words are what spaces part, each counts once, and numbers
    are words like others. Longer texts as `equivalent` has them."""
    a, b = left.strip().lower().split(), right.strip().lower().split()
    longest = max(len(a), len(b))
    if longest <= SHORT_WORDS:
        return 2 * len(set(a) & set(b)) >= longest
    return equivalent(left, right)


def same_answer(left: str, right: str) -> bool:
    """Whether two responses come to the same answer: what is in their last box, or all of them without one."""
    inner = boxed(left), boxed(right)
    return same_value(left if inner[0] is None else inner[0], right if inner[1] is None else inner[1])


def partition(responses: Sequence[str], same: Equivalence = equivalent) -> list[int]:
    """The class of each response, numbered in order of appearance; each is compared with classes' first members."""
    first: list[str] = []
    classes: list[int] = []
    for response in responses:
        for index, member in enumerate(first):
            if same(response, member):
                classes.append(index)
                break
        else:
            classes.append(len(first))
            first.append(response)
    return classes


def distinct(responses: Sequence[str], same: Equivalence = equivalent) -> int:
    """NoveltyBench's `distinct_k`: how many classes the responses fall into."""
    return len(set(partition(responses, same)))


def utility(
    responses: Sequence[str], quality: Sequence[float], same: Equivalence = equivalent, patience: float = PATIENCE
) -> float:
    """NoveltyBench's `utility_k`, in the unit of `quality` (NoveltyBench: a reward model's 1 to 10; shares here).

    ValueError for no response, for another number of qualities, and for a patience outside of (0, 1].
    """
    return utility_of(partition(responses, same), quality, patience)


def utility_of(classes: Sequence[int], quality: Sequence[float], patience: float = PATIENCE) -> float:
    """The same from a partition's classes."""
    if not classes or len(classes) != len(quality):
        raise ValueError(f"{len(classes)} responses with {len(quality)} qualities: give as many of each, at least one")
    if not 0 < patience <= 1:
        raise ValueError(f"the patience is a probability above 0, not {patience}")
    seen: set[int] = set()
    total = 0.0
    for place, (index, value) in enumerate(zip(classes, quality, strict=True)):
        if index not in seen:
            seen.add(index)
            total += patience**place * value
    return total / sum(patience**place for place in range(len(classes)))


def entropy(classes: Sequence[int]) -> float:
    """Shannon's entropy of how the responses fall into classes, in bits: 0 when all are alike, log2(k) when none are.
    ValueError for none."""
    if not classes:
        raise ValueError("an entropy needs at least one response")
    shares = [count / len(classes) for count in Counter(classes).values()]
    return max(0.0, -sum(share * math.log2(share) for share in shares))


def self_similarity(responses: Sequence[str], encode: Encoder = embed_texts) -> float:
    """The mean cosine of all pairs of responses, -1 to 1; 1 when all are alike. The shipped encoder sees words and
    word parts. A text that it sees nothing in (a row of zeros) is like none, not even itself. ValueError for fewer
    than two responses."""
    count = len(responses)
    if count < 2:
        raise ValueError("a similarity needs at least two responses")
    rows = np.asarray(encode(responses), dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    whole = rows.sum(axis=0)
    return float((whole @ whole - (rows * rows).sum()) / (count * (count - 1)))


def _numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))
