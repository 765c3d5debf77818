"""How many different things does a model say to the same prompt? (paper §6.3, Fig. 10b; NoveltyBench)

NoveltyBench partitions the responses greedily: each joins the first class whose first member it is equivalent to.
Two short texts (at most five words) are equivalent when twice their shared words reach the longer one's length. For
longer texts NoveltyBench asks a DeBERTa classifier, which ships in no package: here they are equivalent when their
word F1 is at least `LONG_F1` and they name the same numbers (two derivations that differ in a number differ).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from open4ov.evaluate.metrics import token_f1, words

SHORT_WORDS = 5
LONG_F1 = 0.8

Equivalence = Callable[[str, str], bool]


def equivalent(left: str, right: str) -> bool:
    """Whether two responses say the same, by the rule above."""
    a, b = words(left), words(right)
    if a == b:
        return True
    if len(a) <= SHORT_WORDS and len(b) <= SHORT_WORDS:
        shared = (Counter(a) & Counter(b)).total()
        return 2 * shared >= max(len(a), len(b)) and _numbers(left) == _numbers(right)
    return token_f1(left, right) >= LONG_F1 and _numbers(left) == _numbers(right)


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
    """NoveltyBench's `distinct`: how many classes the responses fall into."""
    return len(set(partition(responses, same)))


def _numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))
