"""The verdict on new data: two criteria, and the language, each a paired test with a stated error rate (paper §3.2.2).

    vertical   the trained model's share of right answers is above the base's by more than `gain`
    general    it is not below by `margin` or more (non-inferiority)
    language   nor is the share of answers in the language of the question, over both probes

admit: all three are shown, each at the level `false_admit`. Admitted by mistake means that at least one does not hold,
and that one was claimed with a probability of at most `false_admit`: no correction is needed (intersection-union test).
reject: the opposite of one of them is shown. That errs when any of the three does, so each has a third of
`false_reject`. undecided: neither; more questions may tell.

Several looks: look r judges all questions so far, at an equal part of both rates (alpha spending by Bonferroni: with
`looks` of them, each at rate / looks), so that the rates hold for the whole of it, whenever it stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from open4ov.admission import paired
from open4ov.admission.paired import Pairs
from open4ov.recipe_assess import AssessSection

Verdict = Literal["admit", "reject", "undecided"]
NAMES = ("vertical", "general", "language")
CONFIDENCE = 0.95
WANTED = 0.8
"""The power below which a number of questions is called too few"""


@dataclass(frozen=True)
class Bar:
    """One criterion on the counts so far. `shown`: "holds", "fails" or "open"; `power`: how probable a look at the
    whole of `false_admit` with so many questions was to show it, had the data been as good as the planned ones."""

    name: str
    threshold: float
    pairs: Pairs
    before: float
    after: float
    p_holds: float
    p_fails: float
    shown: Literal["holds", "fails", "open"]
    power: float
    needed: int | None

    def record(self) -> dict[str, Any]:
        low, high = paired.interval(self.pairs, CONFIDENCE)
        return {
            "threshold": self.threshold,
            "asked": self.pairs.asked,
            "before": round(self.before, 6),
            "after": round(self.after, 6),
            "difference": round(self.pairs.difference, 6),
            "low": round(low, 6),
            "high": round(high, 6),
            "gained": self.pairs.gained,
            "lost": self.pairs.lost,
            "p_holds": float(f"{self.p_holds:.3g}"),
            "p_fails": float(f"{self.p_fails:.3g}"),
            "shown": self.shown,
            "power": round(self.power, 3),
            "questions_needed": self.needed,
        }


def thresholds(section: AssessSection) -> dict[str, float]:
    return {"vertical": section.gain, "general": -section.margin, "language": -section.language_margin}


def judge(answers: Mapping[str, tuple[list[bool], list[bool]]], section: AssessSection) -> tuple[Verdict, list[Bar]]:
    """The verdict of one look. `answers`: criterion -> what was right before and after, question by question."""
    bars = [_bar(name, *answers[name], threshold, section) for name, threshold in thresholds(section).items()]
    if any(bar.shown == "fails" for bar in bars):
        return "reject", bars
    return ("admit" if all(bar.shown == "holds" for bar in bars) else "undecided"), bars


def _bar(name: str, before: list[bool], after: list[bool], threshold: float, section: AssessSection) -> Bar:
    pairs = paired.compare(before, after)
    holds, fails = paired.above(pairs, threshold), paired.below(pairs, threshold)
    to_hold, to_fail = section.false_admit / section.rounds, section.false_reject / section.rounds / len(NAMES)
    shown = "fails" if fails <= to_fail else "holds" if holds <= to_hold else "open"
    discordant, difference = _planned(pairs, threshold)
    return Bar(
        name,
        threshold,
        pairs,
        sum(before) / len(before),
        sum(after) / len(after),
        holds,
        fails,
        shown,
        paired.power(pairs.asked, threshold, discordant, difference, to_hold),
        paired.questions(threshold, discordant, difference, to_hold, WANTED),
    )


def _planned(pairs: Pairs, threshold: float) -> tuple[float, float]:
    """What the power is told for: a difference of none where a loss is to be excluded, else one of what was seen, but
    at least a tenth above the threshold, 1 at most; as many discordant questions as were seen, at least one in
    fifty."""
    difference = 0.0 if threshold < 0 else min(1.0, max(pairs.difference, threshold + 0.1))
    return min(1.0, max(pairs.discordant, abs(difference), 0.02)), difference


def warnings(section: AssessSection, vertical: int, general: int) -> list[str]:
    """What is told before anything is trained: probes that are too small for their thresholds.

    `vertical`, `general`: questions that there are in all rounds. Assumed: one question in five is answered otherwise
    after the training, the vertical rises by a tenth above the bar, and the general set stays as it was.
    """
    told: list[str] = []
    level, discordant = section.false_admit / section.rounds, 0.2
    for name, count, threshold in (("vertical", vertical, section.gain), ("general", general, -section.margin)):
        difference = min(1.0, threshold + 0.1) if name == "vertical" else 0.0
        share = max(discordant, difference)
        chance = paired.power(count, threshold, share, difference, level)
        if chance < WANTED:
            needed = paired.questions(threshold, share, difference, level, WANTED)
            told.append(
                f"{count} questions of the {name} probe would show that its criterion holds in {chance:.0%} of cases "
                f"only (if {difference:+.2f} is true and a fifth of the answers change): "
                + (f"{needed} are needed for {WANTED:.0%}" if needed else "no number of questions is enough")
            )
    return told
