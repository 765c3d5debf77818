"""How many training tokens one way needs for the accuracy that another has at the end of its budget.

Both ways are trained under several budgets. Accuracy between two budgets is taken from a straight line over the
logarithm of the tokens. Everything is paired: all models of a seed are asked the same questions. The interval comes
from a bootstrap that draws seeds, and within each of them questions, so that it covers both.

Shapes: B budgets from small to large, S seeds, Q questions of a suite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from open4ov.evaluate.compare import answers
from open4ov.evaluate.scores import GROUPS, per_item

DRAWS = 4000
Scores = list[list[NDArray[np.float64]]]
"""Of each seed, of each suite of the group: [B, Q]"""


@dataclass(frozen=True)
class Needed:
    """Tokens for the wanted accuracy. inf: more than the largest budget. 0: less than the smallest one."""

    wanted: float
    tokens: float
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


def needed(arm: Scores, control: Scores, tokens: Sequence[float], confidence: float = 0.95) -> Needed:
    """Tokens that `arm` needs for the accuracy of `control` under its largest budget. `tokens` [B] of the arm."""
    rng = np.random.default_rng(0)
    seeds = range(len(arm))

    def curves(chosen: Sequence[int], picks: Sequence[Sequence[NDArray[np.int64]]]) -> tuple[list[float], float]:
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
        return mine.tolist(), float(theirs[-1])

    curve, wanted = curves(list(seeds), [[np.arange(suite.shape[1]) for suite in arm[s]] for s in seeds])
    found: list[float] = []
    for _ in range(DRAWS):
        chosen: list[int] = rng.integers(len(arm), size=len(arm)).tolist()
        picks = [[rng.integers(suite.shape[1], size=suite.shape[1]) for suite in arm[s]] for s in chosen]
        found.append(crossing(tokens, *curves(chosen, picks)))
    tail = (1 - confidence) / 2
    low, high = (sorted(found)[min(DRAWS - 1, int(share * DRAWS))] for share in (tail, 1 - tail))
    reached = sum(one < math.inf for one in found) / DRAWS
    return Needed(wanted, crossing(tokens, curve, wanted), low, high, reached)


def read(runs: Sequence[Sequence[Path]], model: str, group: str = "vertical") -> Scores:
    """The scores of a way's runs: for each budget [B] the runs of the seeds [S].

    Raises UserError for a run that has not been evaluated, and ValueError when the runs of a seed were asked different
    questions.
    """
    found: Scores = []
    for budgets in zip(*runs, strict=True):
        rows = [per_item(answers([run], model)) for run in budgets]
        suites: list[NDArray[np.float64]] = []
        for suite in GROUPS[group].of:
            names = sorted(rows[0][suite])
            if any(sorted(row[suite]) != names for row in rows):
                raise ValueError(f"{budgets[0].parent}: its runs were asked different questions of {suite}")
            suites.append(np.array([[row[suite][name] for name in names] for row in rows]))
        found.append(suites)
    return found


def markdown(ways: Mapping[str, Sequence[float]], tokens: Sequence[float], found: Needed) -> str:
    """The curves (way -> accuracy [B]), and what was found of them."""
    names = list(ways)
    lines = ["\n## Tokens to the same accuracy\n", f"| tokens | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for number, budget in enumerate(tokens):
        lines.append(f"| {budget:,.0f} | {' | '.join(f'{100 * ways[name][number]:.1f}' for name in names)} |")
    last = tokens[-1]

    def said(value: float) -> str:
        if value == math.inf:
            return f"more than {last:,.0f}"
        return f"less than {tokens[0]:,.0f}" if value == 0 else f"{value:,.0f}"

    lines += [
        f"\nVertical accuracy, points. {names[1]} reaches {100 * found.wanted:.1f} with {last:,.0f} tokens; {names[0]} "
        f"reaches that with {said(found.tokens)} tokens"
        + (f", a share of {found.tokens / last:.2f}" if 0 < found.tokens < math.inf else "")
        + f" (95 % interval: {said(found.low)} to {said(found.high)}; {100 * found.reached:.0f} % of the draws reach "
        "it at all). Straight lines over the logarithm of the tokens between the budgets; the interval is a bootstrap "
        "over seeds and questions, and coarse with so few seeds.",
    ]
    return "\n".join(lines) + "\n"
