"""Is a response right, and how sure are we of a mean? (paper §6.1)

Scoring rules (`RULES`): `exact` (normalised text or equal numbers; of the last \\boxed{} if there is one), `boxed` (the
same, but a box is required), `verbatim` (normalised text only: "07" is not "7"), `literal` (the case counts too),
`sentence` (token F1 of at least 0.7, and no other sentence of the domain is nearer), `refusal` (says that there is no
picture), `denial` (says that there is no such thing). Intervals: Wilson's for shares of independent items, bootstrap
percentiles for everything that averages over averages, paired bootstrap for differences between two models on the same
items.
"""

from __future__ import annotations

import math
import random
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from open4ov.answers import boxed, correct

SENTENCE_F1 = 0.7
"""Token F1 from which a sentence (a symbol's meaning, what the driver should do) counts as right."""

REFUSALS: dict[str, tuple[str, ...]] = {
    "en": (
        "no picture", "no image", "no photo", "no figure", "no chart", "can't see", "cannot see", "can not see",
        "don't see", "do not see", "not see any", "picture is missing", "image is missing", "missing image",
        "without a picture", "without an image", "without the picture", "without the image", "need a picture",
        "need an image", "need the picture", "need the image", "not given a picture", "not given an image",
        "send a picture", "send an image", "send the picture", "send the image", "attach a picture", "attach an image",
    ),
    "zh": (
        "没有图片", "没有图像", "没有看到图", "没看到图", "看不到图", "没有照片", "没有提供图", "没有收到图",
        "未提供图", "未看到图", "未收到图", "缺少图",
        "无法看到", "看不见图", "请提供图", "请发送图", "请上传图", "需要图",
    ),
}  # fmt: skip
"""Phrases that mark a response as an honest refusal when the image is missing, after `normalise`."""

_NO_PICTURE = {
    language: tuple(phrase for phrase in phrases if re.search("picture|image|photo|figure|chart|图|照片", phrase))
    for language, phrases in REFUSALS.items()
}
DENIALS: dict[str, tuple[str, ...]] = {
    "en": (
        "there is no", "there are no", "there's no", "there isn't", "there is not", "no such", "not in the picture",
        "not in the image", "not in this", "not there", "not shown", "not visible", "does not show", "doesn't show",
        "not see", "don't see", "can't see", "cannot see", "is absent",
    ),
    "zh": ("没有", "不在图", "看不到", "没看到", "不存在", "未见"),
}  # fmt: skip
"""Phrases that mark a response as denying that the thing asked about is there, after `normalise`."""

_NUMBER_WORDS = {
    word: number
    for number, words in enumerate(
        ["zero 零 〇", "one 一", "two 二 两", "three 三", "four 四", "five 五", "six 六", "seven 七", "eight 八",
         "nine 九", "ten 十", "eleven 十一", "twelve 十二", "thirteen 十三", "fourteen 十四", "fifteen 十五",
         "sixteen 十六", "seventeen 十七", "eighteen 十八", "nineteen 十九", "twenty 二十"]
    )
    for word in words.split()
}  # fmt: skip
_CJK = "\u3400-\u9fff\uf900-\ufaff"
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"'})


def normalise(text: str) -> str:
    """Case, width, outer punctuation, leading articles and spacing folded away; Chinese loses its spaces."""
    return re.sub(r"^(?:a|an|the) (?=\S)", "", _folded(text).casefold())


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    text = re.sub(r"\s+", " ", text).strip(" .,;:!?\"'()[]{}。、，；：！？「」《》*`")
    return re.sub(rf"(?<=[{_CJK}]) | (?=[{_CJK}])", "", text)


def number(text: str) -> Fraction | None:
    """The number a whole text stands for ("12", "-3.50", "1,200", "3/4", "seven", "七"), or None."""
    text = normalise(text).replace("−", "-")
    if text in _NUMBER_WORDS:
        return Fraction(_NUMBER_WORDS[text])
    grouped = re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text)
    text = text.replace(",", "") if grouped else text
    if not re.fullmatch(r"[+-]?(?:\d+(?:\.\d+)?|\.\d+|\d+ ?/ ?\d+)", text):
        return None
    try:
        return Fraction(text.replace(" ", ""))
    except ZeroDivisionError:
        return None


def words(text: str) -> list[str]:
    """Tokens for overlap measures: latin words and numbers, and each Chinese character on its own."""
    return re.findall(rf"[{_CJK}]|[^\W_{_CJK}]+(?:[.'][^\W_{_CJK}]+)*", normalise(text))


def token_f1(response: str, reference: str) -> float:
    """Harmonic mean of precision and recall over `words`, counted with multiplicity (as in SQuAD)."""
    given, wanted = Counter(words(response)), Counter(words(reference))
    common = sum((given & wanted).values())
    return 2 * common / (given.total() + wanted.total()) if common else 0.0


def same(response: str, reference: str) -> bool:
    """Equal as normalised text, or as numbers when both are numbers."""
    if normalise(response) == normalise(reference):
        return True
    left, right = number(response), number(reference)
    return left is not None and left == right


def refuses(response: str) -> bool:
    """True when the response says, in English or Chinese, that it was given no picture (`REFUSALS`)."""
    return _has(response, REFUSALS)


def denies(response: str) -> bool:
    """True when the response says that what it is asked about is not there (`DENIALS`).

    Not when it says that there is no picture: beside a picture that is false.
    """
    return _has(response, DENIALS) and not _has(response, _NO_PICTURE)


def sentence(response: str, answers: Sequence[str], others: Sequence[str]) -> bool:
    """Near enough to a right sentence, and not nearer to one of `others` (the same fact about another symbol)."""
    nearest = max(token_f1(response, answer) for answer in answers)
    return nearest >= SENTENCE_F1 and all(token_f1(response, other) <= nearest for other in others)


def _has(response: str, phrases: Mapping[str, Sequence[str]]) -> bool:
    text = normalise(response)
    return any(phrase in text for language in phrases.values() for phrase in language)


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
