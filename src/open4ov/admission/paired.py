"""Two models on the same questions: is one better by more than a threshold, and how many questions tell?

A question that both models answer alike tells nothing; what counts are the `gained` ones (wrong, then right) and the
`lost` ones (right, then wrong). The difference of the two shares of right answers is (gained - lost) / asked.

The test. With threshold 0 the gained ones among the discordant are binomial (McNemar's exact test). With another
threshold the share of discordant questions is a nuisance parameter, for which no conditional test is exact. So outcomes
are put in order by Tango's score (Statistics in Medicine 17, 1998), and the p-value is the largest probability, over
all shares of discordant questions, of an outcome at least as extreme (Hsueh, Liu and Chen, Biometrics 57, 2001; Sidik,
Statistics in Medicine 22, 2003): the rate of false claims stays below the level, however few the questions. A bootstrap
of the differences would not promise that: with no discordant question it knows no doubt at all. Above `EXACT` questions
the score's own normal approximation is used; there the two differ by less than matters.

What it takes for granted: the questions are drawn independently of one another and of the training. The claim is about
these two models on all questions of that kind, not about another training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

EXACT = 3000
"""Most questions for which outcomes are enumerated"""
_GRID = 64  # shares of discordant questions that are tried
_KEPT = 400  # most questions for which the tables of all outcomes are kept: some 20 MB each
_TAIL = 1e-10  # outcomes beyond hold less probability than this
_MOST = 20_000  # questions beyond which nobody is told a number

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """How many questions were asked, and of them gained and lost. Raises ValueError for counts that cannot be."""

    asked: int
    gained: int
    lost: int

    def __post_init__(self) -> None:
        if self.asked < 1 or min(self.gained, self.lost) < 0 or self.gained + self.lost > self.asked:
            raise ValueError(f"{self.gained} gained and {self.lost} lost of {self.asked} questions cannot be")

    @property
    def difference(self) -> float:
        """The second model's share of right answers minus the first one's."""
        return (self.gained - self.lost) / self.asked

    @property
    def discordant(self) -> float:
        """Share of the questions that one of the two answers rightly."""
        return (self.gained + self.lost) / self.asked


def compare(before: Sequence[bool], after: Sequence[bool]) -> Pairs:
    """The counts of two lists of right (True) and wrong answers to the same questions."""
    pairs = list(zip(before, after, strict=True))
    return Pairs(len(pairs), sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs))


@lru_cache(maxsize=4096)
def above(pairs: Pairs, threshold: float) -> float:
    """p-value of the claim that the difference is above `threshold`: at most the probability of such counts, or more
    extreme ones, where it is not. ValueError for a threshold outside (-1, 1)."""
    _check(threshold)
    n, gained, lost = pairs.asked, pairs.gained, pairs.lost
    if threshold == 0:
        return _binomial_tail(gained, gained + lost)
    score = float(_score(np.array([[gained]]), np.array([[lost]]), n, threshold)[0, 0])
    return 1 - NormalDist().cdf(score) if n > EXACT else _size(score, n, threshold)


def below(pairs: Pairs, threshold: float) -> float:
    """p-value of the claim that the difference is below `threshold`."""
    return above(Pairs(pairs.asked, pairs.lost, pairs.gained), -threshold)


def interval(pairs: Pairs, confidence: float) -> tuple[float, float]:
    """Tango's score interval of the difference: the thresholds that neither claim goes beyond."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    gained, lost = np.array([[pairs.gained]]), np.array([[pairs.lost]])

    def edge(sign: int) -> float:
        inside, outside = pairs.difference, float(sign)
        for _ in range(50):
            middle = (inside + outside) / 2
            far = abs(float(_score(gained, lost, pairs.asked, middle)[0, 0])) > z
            inside, outside = (inside, middle) if far else (middle, outside)
        return inside

    return edge(-1), edge(1)


def power(asked: int, threshold: float, discordant: float, difference: float, level: float) -> float:
    """How probable it is that `above` comes out at `level` or less, where a share `discordant` of the questions is
    answered differently and the true difference is `difference`: by the score's normal approximation, which is right to
    some hundredths from a few dozen questions on. ValueError for shares that cannot be."""
    _check(threshold)
    if not (abs(difference) <= discordant <= 1 and 0 < level < 1 and asked >= 1):
        raise ValueError(f"a difference of {difference} needs a share of at least {abs(difference)} discordant of 1")
    p, q = (discordant + difference) / 2, (discordant - difference) / 2
    b, c, far = np.array([[asked * p]]), np.array([[asked * q]]), asked * (difference - threshold)
    under = math.sqrt(float(_variance(b, c, asked, threshold)[0, 0]))  # the standard deviation at the threshold
    spread = math.sqrt(max(discordant - difference**2, 1e-12) * asked)
    return NormalDist().cdf((far - NormalDist().inv_cdf(1 - level) * under) / spread)


def questions(threshold: float, discordant: float, difference: float, level: float, wanted: float) -> int | None:
    """How many questions give the claim "above `threshold`" the power `wanted`; None when no
    20,000 do (the true difference is not above the threshold, or hardly)."""
    if difference <= threshold:
        return None
    low, high = 8, 16
    while power(high, threshold, discordant, difference, level) < wanted:
        low, high = high, 2 * high
        if low >= _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle, threshold, discordant, difference, level) < wanted:
            low = middle
        else:
            high = middle
    return high


def _check(threshold: float) -> None:
    if not -1 < threshold < 1:
        raise ValueError(f"the threshold {threshold} is no difference of two shares; use one between -1 and 1")


def _size(score: float, n: int, threshold: float) -> float:
    """The largest probability of a score of at least this, over all shares of discordant questions, at the threshold.
    At smaller differences it is smaller."""
    tables = _kept(n, threshold) if n <= _KEPT else _tables(n, threshold)
    return min(1.0, max(float(weight[scores >= score - 1e-9].sum()) for scores, weight in tables))


@lru_cache(maxsize=8)
def _kept(n: int, threshold: float) -> list[tuple[Floats, Floats]]:
    return list(_tables(n, threshold))


def _tables(n: int, threshold: float) -> Iterator[tuple[Floats, Floats]]:
    """The scores of all outcomes and their probabilities, for each share of discordant questions."""
    for discordant in np.linspace(abs(threshold), 1.0, _GRID):
        gained, lost, weight = _outcomes(n, threshold, float(discordant))
        yield _score(gained, lost, n, threshold), weight


def _outcomes(n: int, difference: float, discordant: float) -> tuple[Floats, Floats, Floats]:
    """Numbers gained [B, 1] and lost [1, C], and the trinomial probability [B, C] of each pair of them, without those
    whose probability is as good as none."""
    p, q = (discordant + difference) / 2, (discordant - difference) / 2
    gained, lost = _window(n, p)[:, None], _window(n, q)[None, :]
    same = n - gained - lost
    logs = _log_factorial(n)
    inside = same >= 0
    rest = logs[np.where(inside, same, 0).astype(np.int64)]
    shares = [_times_log(gained, p), _times_log(lost, q), _times_log(np.where(inside, same, 0), 1 - p - q)]
    weight = logs[n] - logs[gained.astype(np.int64)] - logs[lost.astype(np.int64)] - rest + sum(shares)
    return gained, lost, np.where(inside, np.exp(weight), 0.0)


def _window(n: int, share: float) -> Floats:
    """The counts of n draws that hold all but a negligible part of the probability (Bernstein's bound)."""
    if share <= 1e-15:
        return np.zeros(1)
    bound = math.log(2 / _TAIL)
    reach = math.sqrt(2 * n * share * (1 - share) * bound) + 2 * bound / 3 + 1
    low, high = math.floor(n * share - reach), math.ceil(n * share + reach)
    return np.arange(max(0, low), min(n, high) + 1, dtype=np.float64)


def _times_log(count: Floats, share: float) -> Floats:
    if share <= 1e-15:
        return np.where(count > 0, -np.inf, 0.0)
    return count * math.log(share)


def _score(gained: Floats, lost: Floats, n: int, threshold: float) -> Floats:
    """Tango's score: the difference's distance from the threshold in standard deviations, these as the likelihood at
    the threshold has them. 0 for no discordant question at threshold 0."""
    variance = _variance(gained, lost, n, threshold)
    far = gained - lost - n * threshold
    with np.errstate(divide="ignore", invalid="ignore"):
        score = far / np.sqrt(variance)
    return np.where(variance > 1e-12, score, np.where(far > 0, np.inf, np.where(far < 0, -np.inf, 0.0)))


def _variance(gained: Floats, lost: Floats, n: int, threshold: float) -> Floats:
    """Of gained - lost, as the likelihood at the threshold has it."""
    d = threshold
    b = -gained - lost + (2 * n - gained + lost) * d
    c = -lost * d * (1 - d)
    lost_share = (np.sqrt(np.maximum(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    return np.maximum(n * (2 * lost_share + d * (1 - d)), 0.0)


def _binomial_tail(count: int, of: int) -> float:
    """Probability of `count` heads or more in `of` tosses of a fair coin."""
    return min(1.0, sum(math.comb(of, k) for k in range(int(count), int(of) + 1)) / 2 ** int(of))


@lru_cache(maxsize=64)
def _log_factorial(n: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])
