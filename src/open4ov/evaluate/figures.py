"""From answers and their scores to the figures of a set: score, interval, what was left out, categories.

What has no answer or no verdict is not counted as wrong, and makes the set partial; `lowest` says what the score would
be if it were. A question in rotations is right if it is right in all of them (circular evaluation, MMBench).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open4ov.evaluate.answer_book import Entry
from open4ov.evaluate.metrics import pass_at_k
from open4ov.evaluate.scoring import Score
from open4ov.evaluate.statistics import Value, interval

SCHEMA = "open4ov.evaluation/1"
"""Of `evaluation.json`, which `set_eval.py` describes"""


@dataclass(frozen=True)
class Scored:
    """An answered item, and the score of each response."""

    entry: Entry
    scores: tuple[Score, ...]

    @property
    def value(self) -> float:
        """The mean over the responses, 0 to 1."""
        return statistics.fmean(score.value for score in self.scores)


@dataclass(frozen=True)
class Question:
    """One or several items that count as one: `value` is the least of theirs."""

    name: str
    category: str
    cluster: str
    value: float
    detail: str = ""


def questions(scored: Sequence[Scored], rotated: bool) -> list[Question]:
    """Items by what counts as one question. `rotated`: those of a group are one."""
    groups: dict[str, list[Scored]] = {}
    for each in scored:
        groups.setdefault(each.entry.group if rotated and each.entry.group else each.entry.id, []).append(each)
    return [
        Question(
            name,
            members[0].entry.category,
            members[0].entry.cluster or name,
            min(each.value for each in members),
            members[0].entry.details.get("l2-category", ""),
        )
        for name, members in groups.items()
    ]


def parts(found: Sequence[Question], average: str) -> dict[str, list[Value]]:
    """What the score is the mean of: all items, each category's, or HallusionBench's three accuracies."""
    if average == "category":
        split: dict[str, list[Value]] = {}
        for each in found:
            split.setdefault(each.category, []).append(Value(each.value, each.cluster))
        return split
    if average == "hallusion":
        return _hallusion(found)
    return {"": [Value(each.value, each.cluster) for each in found]}


def _hallusion(found: Sequence[Question]) -> dict[str, list[Value]]:
    """aAcc: items; fAcc and qAcc: figures and questions of which every item is right. The last three parts of an index
    name set, figure and question (Guan et al. 2024)."""
    items: list[Value] = []
    figures: dict[tuple[str, ...], list[Value]] = {}
    asked: dict[tuple[str, ...], list[Value]] = {}
    for each in found:
        *_, number, figure, question = ["", "", "", *each.name.split("_")]
        value = Value(each.value, f"{each.detail}/{number}")
        items.append(value)
        figures.setdefault((each.detail, number, figure), []).append(value)
        asked.setdefault((each.detail, number, question), []).append(value)
    both = [[Value(min(one.value for one in group), group[0].cluster) for group in by.values()]
            for by in (figures, asked)]  # fmt: skip
    return {"aAcc": items, "fAcc": both[0], "qAcc": both[1]}


def figures(
    name: str,
    scored: Sequence[Scored],
    wanted: int,
    refused: int,
    average: str,
    rotated: bool,
    confidence: float,
) -> dict[str, Any]:
    """The figures of one set. `wanted`: items that there were to score, `refused`: rows that are none; without a score
    of any item there is no figure."""
    found = questions(scored, rotated)
    told: dict[str, Any] = {"items": wanted, "scored": len(scored)}
    if not found:
        return told
    split = parts(found, average)
    measured = interval(list(split.values()), confidence, f"evaluation/{name}")
    told |= {"questions": len(found), "clusters": len({each.cluster for each in found}), **measured.as_dict()}
    told["lowest"] = round(measured.value * len(scored) / max(wanted + refused, len(scored)), 6)
    if len(split) > 1:
        told["parts"] = {part: _mean(values) for part, values in split.items()}
    if rotated:
        told["single"] = round(statistics.fmean(each.value for each in scored), 6)
    categories = parts(found, "category")
    if len(categories) > 1:
        told["categories"] = {part: {"score": _mean(of), "questions": len(of)} for part, of in categories.items()}
    return told | _responses(scored)


def _mean(values: Sequence[Value]) -> float:
    return round(statistics.fmean(each.value for each in values), 6)


def _responses(scored: Sequence[Scored]) -> dict[str, Any]:
    said = [(text, score) for each in scored for text, score in zip(each.entry.responses, each.scores, strict=True)]
    lengths = [length for each in scored for length in each.entry.tokens if length is not None]
    told: dict[str, Any] = {
        "responses": len(said),
        "empty": sum(not text.strip() for text, _ in said),
        "undecided": sum(score.read is None for _, score in said),
        "cut": sum(finish == "length" for each in scored for finish in each.entry.finish),
    }
    if lengths:
        told["tokens"] = round(statistics.fmean(lengths), 3)
    several = [each for each in scored if len(each.scores) > 1]
    if several and all(score.value in (0.0, 1.0) for each in several for score in each.scores):
        k = min(len(each.scores) for each in several)
        right = [(sum(score.value == 1 for score in each.scores), len(each.scores)) for each in several]
        told["pass_at"] = {
            str(at): round(statistics.fmean(pass_at_k(c, n, at) for c, n in right), 6) for at in sorted({1, k})
        }
    return told


def grouped(
    groups: Mapping[str, Sequence[str]], suites: Mapping[str, Sequence[Question]], confidence: float
) -> dict[str, Any]:
    """The plain mean of the sets of each group that are all there."""
    told: dict[str, Any] = {}
    for name, members in groups.items():
        if all(suites.get(member) for member in members):
            split = [[Value(q.value, f"{member}/{q.cluster}") for q in suites[member]] for member in members]
            measured = interval(split, confidence, f"evaluation/{name}")
            told[name] = {"of": list(members), **measured.as_dict()}
    return told
