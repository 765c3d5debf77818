"""The verdict: what it takes, and how often it is wrong."""

from __future__ import annotations

import math
import random

import pytest

from open4ov.admission.criteria import judge, warnings
from open4ov.admission.paired import Pairs, above
from open4ov.recipe_assess import AssessSection

SECTION = AssessSection(tokens=1000)
Column = tuple[list[bool], list[bool]]


def column(asked: int, right: int, gained: int, lost: int) -> Column:
    """Answers before and after: `right` of `asked` at first, then so many gained and lost."""
    before = [True] * right + [False] * (asked - right)
    after = [False] * lost + [True] * (right - lost) + [True] * gained + [False] * (asked - right - gained)
    return before, after


GOOD = column(300, 20, gained=90, lost=2)
KEPT = column(300, 250, gained=5, lost=6)
SPOKEN = column(600, 599, gained=1, lost=0)


@pytest.mark.parametrize(
    ("vertical", "general", "language", "verdict"),
    [
        (GOOD, KEPT, SPOKEN, "admit"),
        (column(300, 20, 8, 6), KEPT, SPOKEN, "reject"),  # the vertical does not rise
        (GOOD, column(300, 250, 2, 60), SPOKEN, "reject"),  # a fifth of the general ability is lost
        (GOOD, KEPT, column(600, 600, 0, 120), "reject"),  # answers come in the wrong language
        (column(300, 20, 24, 6), KEPT, SPOKEN, "undecided"),  # a rise of 6 %, with 5 % asked for
        (GOOD, column(300, 250, 4, 16), SPOKEN, "undecided"),  # a loss of 4 %, with 5 % allowed
    ],
)
def test_admitting_takes_all_three_and_rejecting_one(
    vertical: Column, general: Column, language: Column, verdict: str
) -> None:
    found, bars = judge({"vertical": vertical, "general": general, "language": language}, SECTION)
    assert found == verdict
    assert [bar.name for bar in bars] == ["vertical", "general", "language"]
    assert all(bar.record()["low"] <= bar.record()["difference"] <= bar.record()["high"] for bar in bars)


def test_more_rounds_make_each_look_harder() -> None:
    close = column(300, 20, gained=33, lost=4)
    answers = {"vertical": close, "general": KEPT, "language": SPOKEN}
    assert judge(answers, SECTION)[0] == "admit"
    assert judge(answers, SECTION.model_copy(update={"rounds": 10}))[0] == "undecided"


@pytest.mark.parametrize("rounds", [1, 3])
def test_data_that_bring_just_the_bar_are_admitted_no_more_often_than_stated(rounds: int) -> None:
    """Simulated, with looks at 40, 80 and 120 questions: the vertical rises by the bar exactly, all else is perfect."""
    section = SECTION.model_copy(update={"gain": 0.1, "margin": 0.2, "rounds": rounds, "false_admit": 0.1})
    rng, tries, admitted = random.Random(5), 250, 0
    perfect = {"general": column(100, 90, 0, 0), "language": column(200, 200, 0, 0)}
    for _ in range(tries):
        before: list[bool] = []
        after: list[bool] = []
        for _ in range(rounds):
            for _ in range(40):
                kind = rng.choices(("gained", "lost", "right", "wrong"), (0.15, 0.05, 0.2, 0.6))[0]
                before.append(kind in ("lost", "right"))
                after.append(kind in ("gained", "right"))
            verdict, _ = judge({"vertical": (before, after), **perfect}, section)
            if verdict != "undecided":
                break
        admitted += verdict == "admit"
    bound = sum(math.comb(tries, k) * 0.1**k * 0.9 ** (tries - k) for k in range(admitted))  # P(fewer), if it is 0.1
    assert bound < 0.999, f"{admitted} of {tries} were admitted"
    assert rounds > 1 or admitted > 0.01 * tries  # a test that never admits would pass, too


def test_a_loss_of_the_whole_margin_is_not_called_held() -> None:
    """Exactly: over all outcomes of 60 questions with a true loss of the margin."""
    n, p, q = 60, 0.02, 0.12
    chance = 0.0
    for gained in range(7):
        for lost in range(20):
            same = n - gained - lost
            ways = math.factorial(n) // (math.factorial(gained) * math.factorial(lost) * math.factorial(same))
            if above(Pairs(n, gained, lost), -0.1) <= 0.05:
                chance += ways * p**gained * q**lost * (1 - p - q) ** same
    assert 0.005 < chance <= 0.05


def test_probes_that_are_too_small_are_told_before_anything_is_trained() -> None:
    assert warnings(SECTION, 2000, 2000) == []
    told = warnings(SECTION, 40, 40)
    assert [line.split()[4] for line in told] == ["vertical", "general"]
    assert "questions of the general probe" in told[1]
    assert "are needed" in told[1]


@pytest.mark.parametrize("gain", [0.9, 0.95, 0.999])
def test_a_gain_near_one_is_judged_too(gain: float) -> None:
    section = SECTION.model_copy(update={"gain": gain})
    found, (vertical, *_) = judge({"vertical": column(300, 0, 300, 0), "general": KEPT, "language": SPOKEN}, section)
    assert vertical.shown == ("holds" if gain < 0.98 else "open")
    assert found == ("admit" if gain < 0.98 else "undecided")
    assert warnings(section, 300, 300)  # the language's margin aside, the general probe is too small for its own
