"""How many training tokens one way needs for the accuracy that another has at the end of its budget, as a share of what
that one needs for it.

Both ways are trained under several budgets, and both curves are read alike: where each first reaches the accuracy.
Between two budgets it is taken from a straight line over the logarithm of the tokens. Everything is paired: all models
of a seed are asked the same questions. The interval comes from a bootstrap that draws seeds, and within each of them
questions, so that it covers both.

Shapes: B budgets from small to large, S seeds, Q questions of a suite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from open4ov.ablate.effects import Measured
from open4ov.errors import UserError
from open4ov.evaluate.scores import GROUPS

DRAWS = 4000
Scores = list[list[NDArray[np.float64]]]
"""Of each seed, of each suite of the group: [B, Q]"""


@dataclass(frozen=True)
class Needed:
    """`tokens` and `of_control` for the wanted accuracy: inf: more than the largest budget; 0: less than the smallest
    one. `share`, `low`, `high`: the first over the second; 1 where both are below the smallest budget."""

    wanted: float
    tokens: float
    of_control: float
    share: float
    low: float
    high: float
    reached: float
    """Share of the bootstrap's draws in which the largest budget was enough"""


def crossing(tokens: Sequence[float], accuracy: Sequence[float], wanted: float) -> float:
    """Where a curve first reaches `wanted`: tokens; 0 when it begins there, inf when it never does."""
    if accuracy[0] >= wanted:
        return 0.0
    for here in range(1, len(tokens)):
        low, high = accuracy[here - 1], accuracy[here]
        if high >= wanted:
            share = (wanted - low) / (high - low)
            start, end = math.log(tokens[here - 1]), math.log(tokens[here])
            return math.exp(start + share * (end - start))
    return math.inf


def ratio(arm: float, control: float) -> float:
    """Of two crossings. 1 where they are the same, be it that both curves begin above what is wanted."""
    if arm == control:
        return 1.0
    return arm / control if control else math.inf


def needed(arm: Scores, control: Scores, tokens: Sequence[float], confidence: float = 0.95) -> Needed:
    """Tokens that `arm` needs for the accuracy of `control` under its largest budget. `tokens` [B] of both: the budgets
    are alike."""
    rng = np.random.default_rng(0)
    seeds = range(len(arm))

    def curves(chosen: Sequence[int], picks: Sequence[Sequence[NDArray[np.int64]]]) -> tuple[float, float, float]:
        """The wanted accuracy, and where arm and control first have it."""
        mine, theirs = (
            np.mean(
                [
                    np.mean([suite[:, pick].mean(axis=1) for suite, pick in zip(scores[s], one, strict=True)], axis=0)
                    for s, one in zip(chosen, picks, strict=True)
                ],
                axis=0,
            )
            for scores in (arm, control)
        )
        wanted = float(theirs[-1])
        return wanted, crossing(tokens, mine.tolist(), wanted), crossing(tokens, theirs.tolist(), wanted)

    every: list[list[NDArray[np.int64]]] = [[np.arange(suite.shape[1]) for suite in arm[s]] for s in seeds]
    wanted, own, of_control = curves(list(seeds), every)
    found: list[float] = []
    enough = 0
    for _ in range(DRAWS):
        chosen: list[int] = rng.integers(len(arm), size=len(arm)).tolist()
        picks: list[list[NDArray[np.int64]]] = [
            [rng.integers(suite.shape[1], size=suite.shape[1]) for suite in arm[s]] for s in chosen
        ]
        _, one, other = curves(chosen, picks)
        found.append(ratio(one, other))
        enough += one < math.inf
    tail = (1 - confidence) / 2
    low, high = (sorted(found)[min(DRAWS - 1, int(share * DRAWS))] for share in (tail, 1 - tail))
    return Needed(wanted, own, of_control, ratio(own, of_control), low, high, enough / DRAWS)


def scores(runs: Sequence[Sequence[Measured]], group: str) -> Scores:
    """Of a way's runs: for each budget [B] the runs of the seeds [S].

    Raises UserError when a run was not asked the group, or the runs of a seed were asked different questions.
    """
    found: Scores = []
    for budgets in zip(*runs, strict=True):
        suites: list[NDArray[np.float64]] = []
        for suite in GROUPS[group].of:
            rows = [run.scores.get(suite, {}) for run in budgets]
            names = sorted(rows[0])
            if not names or any(sorted(row) != names for row in rows):
                raise UserError(f"the runs of seed {budgets[0].seed} were asked different questions of '{suite}'")
            suites.append(np.array([[row[name] for name in names] for row in rows]))
        found.append(suites)
    return found
