"""What an arm makes of a row or figure, against its control: the mean difference, paired, and how sure it is.

Two intervals are made, and the wider end of each side counts. One draws questions (the bootstrap of `open4ov compare`,
all seeds' questions together): it would be enough if these very models were all that is asked about. The other takes
the mean of each seed as one value (Student's t): it covers how much one training differs from the next, which a claim
about a method is about. With three seeds t is 4.3, so that small effects stay undecided: more seeds narrow it.

p is the larger one of the two tests that belong to them: sign flips of questions (`evaluate/statistics.py`), and t.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from open4ov.ablate import student
from open4ov.ablate.figures import FIGURES
from open4ov.errors import UserError
from open4ov.evaluate.metrics import bootstrap
from open4ov.evaluate.scores import GROUPS, ROWS
from open4ov.evaluate.statistics import Value, paired

Scores = Mapping[str, Mapping[str, float]]
"""Row -> question -> score (`scores.per_item`)"""


@dataclass(frozen=True)
class Measured:
    """What is known of one run."""

    seed: int
    scores: Scores
    figures: Mapping[str, float]
    spent: Mapping[str, float]


@dataclass(frozen=True)
class Effect:
    """Arm minus control in the row's own unit (shares from 0 to 1). `p`: of no other than `null`."""

    value: float
    low: float
    high: float
    p: float
    seeds: int
    questions: int
    """0 for a figure, of which each seed has one"""


def unit(row: str) -> str:
    """share, count, tokens, ... of a row, group or figure."""
    return FIGURES[row].unit if row in FIGURES else (ROWS | GROUPS)[row].unit


def side(row: str) -> int:
    """1 where more is better, -1 where less is."""
    told = FIGURES[row].better if row in FIGURES else (ROWS | GROUPS)[row].better
    return 1 if told == "higher" else -1


def effect(
    row: str, mine: Sequence[Measured], theirs: Sequence[Measured], confidence: float, null: float = 0.0
) -> Effect:
    """`mine` minus `theirs`, run by run: of the same seeds in the same order.

    Raises UserError when a run lacks the row or figure, or the two of a seed were asked different questions.
    """
    if [one.seed for one in mine] != [one.seed for one in theirs] or not mine:
        raise ValueError("runs are paired by seed")
    if row in FIGURES:
        by_seed = [_figure(row, a) - _figure(row, b) for a, b in zip(mine, theirs, strict=True)]
        low, high = student.interval(by_seed, confidence)
        return Effect(statistics.fmean(by_seed), low, high, student.chance(by_seed, null), len(by_seed), 0)
    suites = GROUPS[row].of if row in GROUPS else (row,)
    apart = [_apart(suites, a, b) for a, b in zip(mine, theirs, strict=True)]
    by_seed = [statistics.fmean(statistics.fmean(of.values()) for of in one) for one in apart]
    pooled = [
        [Value(value, f"{measured.seed}/{key}") for measured, one in zip(mine, apart, strict=True)
         for key, value in one[place].items()]
        for place in range(len(suites))
    ]  # fmt: skip
    drawn = bootstrap([[each.value for each in part] for part in pooled], confidence, f"difference/{row}")
    low, high = student.interval(by_seed, confidence)
    if len(by_seed) == 1:  # nothing is known of how trainings differ
        low = high = drawn.value
    shifted = [[Value(each.value - null, each.cluster) for each in part] for part in pooled]
    p = max(paired(shifted, f"claim/{row}")[0], student.chance(by_seed, null) if len(by_seed) > 1 else 0.0)
    count = sum(len(part) for part in pooled)
    return Effect(drawn.value, min(low, drawn.low), max(high, drawn.high), p, len(by_seed), count)


def _figure(name: str, run: Measured) -> float:
    if name not in run.figures:
        raise UserError(f"the run of seed {run.seed} has no figure '{name}' ({FIGURES[name].about})")
    return run.figures[name]


def _apart(suites: Sequence[str], mine: Measured, theirs: Measured) -> list[dict[str, float]]:
    """Of each suite: question -> difference."""
    found: list[dict[str, float]] = []
    for suite in suites:
        one, two = mine.scores.get(suite, {}), theirs.scores.get(suite, {})
        if not one or not two:
            raise UserError(f"a run of seed {mine.seed} was not asked '{suite}'")
        if one.keys() != two.keys():
            raise UserError(f"the runs of seed {mine.seed} were asked different questions of '{suite}'")
        found.append({key: score - two[key] for key, score in one.items()})
    return found
