"""Does a claim hold? The rules, which are the same for every claim and are told with the table.

A condition of the kind `better` holds when the interval lies wholly on the side that is claimed, beyond 0; it does not
hold when it lies wholly on the other side; otherwise it is undecided. Of the kind `kept` it holds when the interval
lies wholly above minus the margin, and does not hold when it lies wholly below that (for rows of which less is better,
the other way round). A claim holds when all its conditions do, and does not hold when one of them does not. Fewer than
`LEAST` seeds, and budgets that differ by more than `ALIKE` with any seed, leave it undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from open4ov.ablate.effects import Effect, Measured, side, unit

Verdict = Literal["holds", "does not hold", "undecided", "not run"]
LEAST = 3
"""Seeds, for anything to be decided"""
ALIKE = 0.02
"""Share by which budgets that are called equal may differ: packs are filled to the last sample that fits"""


@dataclass(frozen=True)
class Condition:
    """What is asked of a row. `margin`: of `kept` what may be lost, of `better` what would be too small to matter; in
    the row's own unit (shares from 0 to 1)."""

    row: str
    kind: Literal["better", "kept"]
    margin: float

    @property
    def null(self) -> float:
        """The effect that the condition's test is against."""
        return 0.0 if self.kind == "better" else -side(self.row) * self.margin


def conditions(better: Sequence[str], kept: Mapping[str, float], margin: float) -> list[Condition]:
    """Of a claim. Margins as the claims file has them: points of shares."""
    found = [Condition(row, "better", margin / _scale(row)) for row in better]
    return found + [Condition(row, "kept", value / _scale(row)) for row, value in kept.items()]


def _scale(row: str) -> float:
    return 100.0 if unit(row) == "share" else 1.0


def decided(condition: Condition, found: Effect) -> Verdict:
    """By the interval alone; `LEAST` seeds are needed."""
    if found.seeds < LEAST:
        return "undecided"
    low, high = sorted((side(condition.row) * found.low, side(condition.row) * found.high))
    bound = 0.0 if condition.kind == "better" else -condition.margin
    if low > bound:
        return "holds"
    return "does not hold" if high < bound else "undecided"


def small(condition: Condition, found: Effect) -> bool:
    """Whether the whole interval is too near to 0 to matter."""
    return condition.kind == "better" and -condition.margin < found.low <= found.high < condition.margin


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim, from those of its conditions."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if verdicts and all(one == "holds" for one in verdicts) else "undecided"


def reached(low: float, high: float, seeds: int) -> Verdict:
    """Of `sooner`: the interval of the share of the control's tokens that the arm needs. inf: more than all of them."""
    if seeds < LEAST:
        return "undecided"
    if high < 1:
        return "holds"
    return "does not hold" if low > 1 else "undecided"


def unequal(names: Sequence[str], mine: Sequence[Measured], theirs: Sequence[Measured]) -> str:
    """Which of the budgets that should be alike are not, in a few words; empty when none. Runs are paired by seed: a
    mean over seeds would hide one seed that has too much behind another that has too little."""
    found: list[str] = []
    for name in names:
        told: dict[str, list[int]] = {}
        for one, two in zip(mine, theirs, strict=True):
            a, b = one.spent[name], two.spent[name]
            if not (a or b):
                told.setdefault(f"neither spent any {name}, or its record is damaged", []).append(one.seed)
            elif abs(a - b) > ALIKE * max(a, b):
                told.setdefault(f"{name} {a:,.0f} against {b:,.0f}", []).append(one.seed)
        found += [f"{_of(seeds, len(mine))}{what}" for what, seeds in told.items()]
    return "; ".join(found)


def _of(seeds: Sequence[int], count: int) -> str:
    """Of which seeds, where it is not all."""
    return "" if len(seeds) == count else f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: "
