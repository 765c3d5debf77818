"""Figures of a run that no evaluation has, and their differences paired by seed.

Of RL's curve: entropy, dead groups, pass rate, length. Of the answers: false refusals, the share of questions with a
picture, or without one where none is needed, that were answered by saying that there is no picture.
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
TAIL = 0.2
"""Share of the steps, the last ones, over which figures of the curve are means"""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Seeds -> Student's t of a 95 % interval of their mean"""

FIGURES: dict[str, str] = {
    "entropy": "entropy of the last fifth of the steps, nats",
    "dead": "share of groups that taught nothing, all steps",
    "pass_rate": "share of right rollouts in the last fifth of the steps",
    "length": "tokens of a rollout in the last fifth of the steps",
    "rollouts": "responses sampled in all",
    "false_refusals": "share of answerable questions answered by saying that there is no picture",
}


def of_run(run: Path, model: str) -> dict[str, float]:
    """The figures of one run that there are. Raises FileNotFoundError when RL or the evaluation is missing."""
    curve: list[dict[str, Any]] = json.loads((run / "rl" / "curve.json").read_text())
    summary: dict[str, Any] = json.loads((run / "rl" / "summary.json").read_text())
    found: dict[str, float] = {}
    tail = curve[-max(1, round(TAIL * len(curve))) :]
    for name in ("entropy", "pass_rate", "length"):
        values = [point[name] for point in tail if name in point]
        if values:
            found[name] = statistics.fmean(values)
    if curve:
        found["dead"] = statistics.fmean(point["dead"] for point in curve)
    rolled = [point["rollouts"] for point in curve if "rollouts" in point]  # where more is rolled out than trained on
    found["rollouts"] = float(sum(rolled)) if rolled else float(summary.get("responses", 0))
    found["false_refusals"] = false_refusals(read_answers(run / f"evaluate_{model}" / "answers.parquet"))
    return found


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
