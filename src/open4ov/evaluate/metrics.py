"""Is a response right, and how sure are we of a mean? (paper §6.1)

Scoring rules (`RULES`): `exact` (normalised text or equal numbers; of the last \\boxed{} if there is one), `boxed` (the
same, but a box is required), `verbatim` (normalised text only: "07" is not "7"), `literal` (the case counts too),
`sentence` (token F1 of at least 0.7 after the heading, and no other sentence of the domain is nearer), `refusal` (says
that there is no picture), `denial` (says that there is no such thing). Intervals: Wilson's for shares of independent
items and what follows from them for means of such shares, bootstrap percentiles for other means, paired bootstrap for
differences between two models on the same items.
"""

from __future__ import annotations

import math
import random
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from open4ov.answers import SENTENCE_F1, boxed, correct, normalise, same, words
from open4ov.refusals import denies, refuses

_CJK = "\u3400-\u9fff\uf900-\ufaff"
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"'})


def token_f1(response: str, reference: str) -> float:
    """Harmonic mean of precision and recall over `words`, counted with multiplicity (as in SQuAD)."""
    given, wanted = Counter(words(response)), Counter(words(reference))
    common = sum((given & wanted).values())
    return 2 * common / (given.total() + wanted.total()) if common else 0.0


def sentence(response: str, answers: Sequence[str], others: Sequence[str]) -> bool:
    """Near enough to a right sentence, and not nearer to one of `others` (the same fact about another symbol).

    A heading ("low fuel level: Refuel soon.") is cut off first, from the references too: the words of a name that is
    right would lift a doubtful sentence over the bar.
    """
    response = _without_heading(response)
    nearest = max(token_f1(response, _without_heading(answer)) for answer in answers)
    return nearest >= SENTENCE_F1 and all(token_f1(response, _without_heading(other)) <= nearest for other in others)


def _without_heading(text: str) -> str:
    """What stands after the first colon and space, or Chinese colon; all of it without one, or with nothing after."""
    return re.sub(r"^[^:：]*(?:: |：)\s*(?=\S)", "", text)


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    text = re.sub(r"\s+", " ", text).strip(" .,;:!?\"'()[]{}。、，；：！？「」《》*`")
    return re.sub(rf"(?<=[{_CJK}]) | (?=[{_CJK}])", "", text)


def _exact(response: str, answers: Sequence[str], others: Sequence[str]) -> bool:
    inner = boxed(response)
    return any(same(response if inner is None else inner, answer) for answer in answers)


def _boxed(response: str, answers: Sequence[str], others: Sequence[str]) -> bool:
    return correct(response, answers[0], answers[1:])


Rule = Callable[[str, Sequence[str], Sequence[str]], bool]

RULES: dict[str, Rule] = {
    "exact": _exact,
    "boxed": _boxed,
    "verbatim": lambda response, answers, others: normalise(response) in {normalise(answer) for answer in answers},
    "literal": lambda response, answers, others: _folded(response) in {_folded(answer) for answer in answers},
    "sentence": sentence,
    "refusal": lambda response, answers, others: refuses(response),
    "denial": lambda response, answers, others: denies(response),
}
"""Rule name -> (response, right answers, answers of other symbols) -> is it right."""


@dataclass(frozen=True)
class Interval:
    """A measured value with the ends of its confidence interval, in the value's own unit."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"score": round(self.value, 6), "low": round(self.low, 6), "high": round(self.high, 6)}


def wilson(right: int, items: int, confidence: float = 0.95) -> Interval:
    """A share of independent yes/no items with Wilson's score interval. ValueError for zero items."""
    if items < 1:
        raise ValueError("a share needs at least one item")
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    share, centre = right / items, (right + z * z / 2) / (items + z * z)
    spread = z * math.sqrt(share * (1 - share) / items + z * z / (4 * items * items)) / (1 + z * z / items)
    return Interval(share, min(share, max(0.0, centre - spread)), max(share, min(1.0, centre + spread)))


def mean_of(intervals: Sequence[Interval]) -> Interval:
    """The plain mean of independent shares, with an interval made of theirs (Zou & Donner 2008, "MOVER").

    Unlike the bootstrap it stays an interval where every share is 0 or 1.
    """
    if not intervals:
        raise ValueError("a mean needs at least one share")
    value = statistics.fmean(each.value for each in intervals)
    down = math.sqrt(sum((each.value - each.low) ** 2 for each in intervals)) / len(intervals)
    up = math.sqrt(sum((each.high - each.value) ** 2 for each in intervals)) / len(intervals)
    return Interval(value, max(0.0, value - down), min(1.0, value + up))


def bootstrap(groups: Sequence[Sequence[float]], confidence: float, seed: str, resamples: int = 2000) -> Interval:
    """The mean of the groups' means, with the percentile interval of resampling items inside each group.

    With one group this is the ordinary bootstrap of a mean; with several, a macro average over suites. Give paired
    differences (item by item) for the paired bootstrap. `seed` makes the interval reproducible.
    """
    if not groups or any(len(group) == 0 for group in groups):
        raise ValueError("a mean needs at least one item in every group")
    draw = np.random.default_rng(random.Random(seed).getrandbits(64))
    totals = np.zeros(resamples)
    for group in groups:
        values = np.asarray(group, dtype=np.float64)
        picks = draw.integers(0, len(values), size=(resamples, len(values)))
        totals += values[picks].mean(axis=1)
    low, high = np.quantile(totals / len(groups), [0.5 - confidence / 2, 0.5 + confidence / 2])
    value = statistics.fmean(statistics.fmean(group) for group in groups)
    return Interval(value, float(low), float(high))


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Unbiased pass@k of one item with `right` of `samples` responses correct: 1 - C(n-c, k) / C(n, k)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)
