"""Figures of a run that no evaluation has, and their differences paired by seed.

Of RL's curve: entropy, dead groups, pass rate, length. Of the answers: what the responses that were sampled have
bought, in right answers about reasoning; false refusals, the share of questions with a picture, or without one where
none is needed, that were answered by saying that there is no picture.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov.evaluate.scores import GROUPS, Answer, read_answers
from open4ov.refusals import refuses

ASKED = {suite for group in GROUPS.values() for suite in group.of} | {"reasoning_greedy", "mismatch", "context"}
"""Suites whose questions have all that they need"""
BEFORE = "sft_preference"
"""The model that RL begins with"""
TAIL = 0.2
"""Share of the steps, the last ones, over which figures of the curve are means"""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Seeds -> Student's t of a 95 % interval of their mean"""

FIGURES: dict[str, str] = {
    "entropy": "entropy of the last fifth of the steps, nats",
    "dead": "share of groups that taught nothing, of all that were rolled out",
    "dead_trained": "share of groups that taught nothing, of those trained on",
    "pass_rate": "share of right rollouts in the last fifth of the steps",
    "length": "tokens of a rollout in the last fifth of the steps",
    "rollouts": "responses sampled in all",
    "per_thousand": "share of right answers (reasoning) for every thousand of them",
    "gain_per_thousand": "what that share has gained by RL for every thousand of them",
    "false_refusals": "share of answerable questions answered by saying that there is no picture",
}


def of_run(run: Path, model: str) -> dict[str, float]:
    """The figures of one run that there are. Raises FileNotFoundError when RL or the evaluation is missing, KeyError
    for a run whose RL is of a version that does not tell them."""
    curve: list[dict[str, Any]] = json.loads((run / "rl" / "curve.json").read_text())
    summary: dict[str, Any] = json.loads((run / "rl" / "summary.json").read_text())
    found: dict[str, float] = {}
    tail = curve[-max(1, round(TAIL * len(curve))) :]
    for name in ("entropy", "pass_rate", "length"):
        values = [point[name] for point in tail if name in point]
        if values:
            found[name] = statistics.fmean(values)
    if curve:
        for name in ("dead", "dead_trained"):
            found[name] = statistics.fmean(point[name] for point in curve)
    found["rollouts"] = float(summary["responses"])
    said = read_answers(run / f"evaluate_{model}" / "answers.parquet")
    after, thousands = accuracy(said), summary["responses"] / 1000
    if after is not None and thousands:
        found["per_thousand"] = after / thousands
        before = run / f"evaluate_{BEFORE}" / "answers.parquet"
        began = accuracy(read_answers(before)) if before.exists() else None
        if began is not None:
            found["gain_per_thousand"] = (after - began) / thousands
    found["false_refusals"] = false_refusals(said)
    return found


def accuracy(answers: Sequence[Answer]) -> float | None:
    """Share of right responses to questions of the suite `reasoning`, which is what RL trains; None without any."""
    right = [one for each in answers if each.suite == "reasoning" for one in each.right]
    return statistics.fmean(right) if right else None


def false_refusals(answers: Sequence[Answer]) -> float:
    """Share of the responses to answerable questions that say that there is no picture."""
    said = [refuses(response) for each in answers if each.suite in ASKED for response in each.responses]
    return statistics.fmean(said) if said else 0.0


@dataclass(frozen=True)
class Difference:
    """A mean over seeds and its 95 % interval; none (`low` and `high` are infinite) of a single seed."""

    mean: float
    low: float
    high: float


def paired(mine: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Mean of the differences, seed by seed, with Student's interval. Raises ValueError for different numbers of seeds,
    none, or more than ten."""
    if len(mine) != len(theirs) or not mine:
        raise ValueError(f"{len(mine)} seeds against {len(theirs)} cannot be paired")
    apart = [a - b for a, b in zip(mine, theirs, strict=True)]
    mean = statistics.fmean(apart)
    if len(apart) == 1:
        return Difference(mean, -math.inf, math.inf)
    if len(apart) not in STUDENT:
        raise ValueError(f"{len(apart)} seeds: there are intervals for 2 to {max(STUDENT)}")
    half = STUDENT[len(apart)] * statistics.stdev(apart) / math.sqrt(len(apart))
    return Difference(mean, mean - half, mean + half)
