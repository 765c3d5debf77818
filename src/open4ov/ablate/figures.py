"""Figures of a run that no evaluation has: of its training, of what it has cost, and of that by what it has gained.

Of RL's curve: entropy, dead groups, pass rate, length. Of the answers: what the responses that were sampled have
bought, in right answers about reasoning; what the tokens and seconds have bought, in points of the vertical; the share
of answerable questions, with a picture or without one where none is needed, that were answered by saying that there is
no picture (an evaluation's row `false_refusal` has those with a picture alone). There is one figure for each seed, so
that differences of them are paired by seed alone.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov.evaluate.scores import GROUPS, Answer, per_item, read_answers
from open4ov.keys import SFT
from open4ov.refusals import refuses
from open4ov.run_dir import read_json

ASKED = {suite for group in GROUPS.values() for suite in group.of} | {"reasoning_greedy", "mismatch", "context"}
"""Suites whose questions have all that they need"""
BEFORE = "sft_preference"
"""The model that RL begins with"""
TAIL = 0.2
"""Share of the steps, the last ones, over which figures of the curve are means"""


@dataclass(frozen=True)
class Figure:
    """What a figure is, and which direction of it is better. `unit`: "share" or what it counts."""

    about: str
    better: str
    unit: str = ""


FIGURES: dict[str, Figure] = {
    "entropy": Figure("entropy of the last fifth of RL's steps", "higher", "nats"),
    "dead": Figure("groups that taught nothing, of all that were rolled out", "lower", "share"),
    "dead_trained": Figure("groups that taught nothing, of those trained on", "lower", "share"),
    "pass_rate": Figure("right rollouts in the last fifth of RL's steps", "higher", "share"),
    "rollout_length": Figure("length of a rollout in the last fifth of RL's steps", "lower", "tokens"),
    "per_thousand": Figure("right answers (reasoning) for every thousand responses sampled", "higher", "share"),
    "gain_per_thousand": Figure("what that has gained by RL for every thousand", "higher", "share"),
    "refused_answerable": Figure("answerable questions answered by saying that there is no picture", "lower", "share"),
    "tokens_per_point": Figure("training tokens of SFT for each point of the vertical gained", "lower", "tokens"),
    "seconds_per_point": Figure("seconds, data and training, for each point of the vertical gained", "lower", "s"),
    "seconds": Figure("data and training, without evaluations", "lower", "s"),
}

RENAMED = {"false_refusals": "refused_answerable"}
"""Former names of figures -> theirs"""

BUDGETS: dict[str, str] = {
    "tokens": "training tokens of SFT",
    "responses": "responses sampled by RL",
    "rl_steps": "steps of RL",
    "dpo_pairs": "pairs of DPO",
    "seconds": "seconds of data and training",
}
"""What a run may have spent"""


def spent(run: Path, stages: Sequence[str]) -> dict[str, float]:
    """What the stages of a run took: BUDGETS. A stage that the run does not have took nothing."""
    tokens = sum(_told(run / stage / "summary.json", "tokens") for stage in SFT if stage in stages)
    responses = steps = pairs = 0.0
    if "rl" in stages:
        responses = _told(run / "rl" / "summary.json", "responses")
        steps = float(len(_curve(run)))
    if "dpo" in stages:
        pairs = _told(run / "dpo" / "summary.json", "pairs")
    worked = [stage for stage in stages if not stage.startswith("evaluate_") and stage != "report"]
    seconds = sum(_told(run / stage / "stage.json", "seconds") for stage in worked)
    return {"tokens": tokens, "responses": responses, "rl_steps": steps, "dpo_pairs": pairs, "seconds": seconds}


def of_run(run: Path, model: str, stages: Sequence[str]) -> dict[str, float]:
    """The figures of one run that there are. Raises UserError for an evaluation that is missing or damaged."""
    said = read_answers(run / f"evaluate_{model}" / "answers.parquet")
    cost = spent(run, stages)
    found = {"refused_answerable": refused_answerable(said), "seconds": cost["seconds"]}
    found |= _of_rl(run, said, cost["responses"]) if "rl" in stages else {}
    base = run / "evaluate_base" / "answers.parquet"
    gained = 100 * (_vertical(said) - _vertical(read_answers(base))) if base.exists() else 0.0
    if gained > 0:  # of nothing gained there is no price
        for name in ("tokens", "seconds"):
            if cost[name]:
                found[f"{name}_per_point"] = cost[name] / gained
    return found


def _of_rl(run: Path, said: Sequence[Answer], responses: float) -> dict[str, float]:
    found: dict[str, float] = {}
    curve = _curve(run)
    tail = curve[-max(1, round(TAIL * len(curve))) :]
    for name, key in (("entropy", "entropy"), ("pass_rate", "pass_rate"), ("rollout_length", "length")):
        values = [point[key] for point in tail if key in point]
        if values:
            found[name] = statistics.fmean(values)
    for name in ("dead", "dead_trained"):
        if values := [point[name] for point in curve if name in point]:
            found[name] = statistics.fmean(values)
    after, thousands = accuracy(said), responses / 1000
    if after is not None and thousands:
        found["per_thousand"] = after / thousands
        before = run / f"evaluate_{BEFORE}" / "answers.parquet"
        began = accuracy(read_answers(before)) if before.exists() else None
        if began is not None:
            found["gain_per_thousand"] = (after - began) / thousands
    return found


def _curve(run: Path) -> list[dict[str, Any]]:
    try:
        return json.loads((run / "rl" / "curve.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def _told(path: Path, key: str) -> float:
    record: Mapping[str, Any] = read_json(path) or {}
    return float(record.get(key, 0))


def _vertical(answers: Sequence[Answer]) -> float:
    scores = per_item(answers)
    parts = [statistics.fmean(scores[suite].values()) for suite in GROUPS["vertical"].of if suite in scores]
    return statistics.fmean(parts) if parts else 0.0


def accuracy(answers: Sequence[Answer]) -> float | None:
    """Share of right responses to questions of the suite `reasoning`, which is what RL trains; None without any."""
    right = [one for each in answers if each.suite == "reasoning" for one in each.right]
    return statistics.fmean(right) if right else None


def refused_answerable(answers: Sequence[Answer]) -> float:
    """Share of the responses to answerable questions that say that there is no picture."""
    said = [refuses(response) for each in answers if each.suite in ASKED for response in each.responses]
    return statistics.fmean(said) if said else 0.0
