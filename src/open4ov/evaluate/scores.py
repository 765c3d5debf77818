"""From answers to the figures of a report: rows, groups, intervals, lengths, differences between two models.

`results.json` (schema 1), the same for every model of a run:

    schema, model, seed, items, samples, confidence
    suites.NAME  = {title, about, unit, better, items, score, low, high}
    groups.NAME  = the same; the score is the plain mean of the suites named in `of`
    lengths      = {mean, p10, p50, p90, p99, counts}: tokens of the sampled reasoning responses, the closing token
                   included; counts[t] is the number of responses of t tokens
    differences.OTHER.NAME = {score, low, high}: this model minus OTHER on the same items, paired

`score`, `low`, `high` are in `unit`: "share" (0 to 1), "count" (distinct responses) or "tokens".
"""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from open4ov.errors import UserError
from open4ov.evaluate.diversity import distinct
from open4ov.evaluate.metrics import Interval, bootstrap, mean_of, pass_at_k, wilson


@dataclass(frozen=True)
class Row:
    """One line of the table. `better` is the direction of improvement; `of` names the suites of a group."""

    title: str
    about: str
    unit: str = "share"
    better: str = "higher"
    of: tuple[str, ...] = ()


ROWS: dict[str, Row] = {
    "naming": Row("naming", "what is in the picture"),
    "colour": Row("colour", "which colour an object has"),
    "counting": Row("counting", "how many objects of a kind there are"),
    "reading": Row("reading", "rendered words and numbers, letter by letter"),
    "position": Row("position", "left, right, above, below"),
    "comparing": Row("comparing", "two pictures, or two objects, set against each other"),
    "charts": Row("charts", "values and extremes of bar and line charts"),
    "arithmetic": Row("arithmetic", "sums in words, without a picture"),
    "instruction": Row("instruction", "doing what a text asks, without a picture"),
    "in_car_en": Row("in-car, English", "dashboard symbols and road signs: name, meaning, severity, what to do"),
    "in_car_zh": Row("in-car, Chinese", "the same in Chinese"),
    "reasoning_greedy": Row("reasoning, greedy", "a sum over what the picture shows, worked, the answer in a box"),
    "reasoning": Row("reasoning, pass@1", "the same at temperature 1: share of right responses"),
    "reasoning_pass_k": Row("reasoning, pass@k", "the same: at least one of the k samples is right"),
    "diversity": Row("diversity", "distinct responses among the samples of one reasoning question", "count"),
    "length": Row("length", "tokens of a sampled reasoning response", "tokens", "lower"),
    "missing_image": Row("missing image", "an image question without its image: says that there is none"),
    "mismatch": Row("irrelevant picture", "a text question beside an unrelated picture: still answered rightly"),
    "context": Row("irrelevant context", "an image question after an unrelated exchange: still answered rightly"),
    "absent": Row("absent object", "asked about an object that is not in the picture: does not make one up"),
}
"""Every suite, in the order of the table."""

GROUPS: dict[str, Row] = {
    "general": Row(
        "general ability",
        "mean of the seven image suites",
        of=("naming", "colour", "counting", "reading", "position", "comparing", "charts"),
    ),
    "vertical": Row("vertical", "mean of the in-car suites", of=("in_car_en", "in_car_zh")),
    "text": Row("text only", "mean of the suites without pictures", of=("arithmetic", "instruction")),
}


@dataclass(frozen=True)
class Answer:
    """What one model said to one question: `responses`, whether each is `right`, and its length in `tokens`.

    `earlier` is the conversation before the last question; `pictures` are `ImageStore` digests, kept for the questions
    of the gallery only.
    """

    id: str
    suite: str
    task: str
    language: str
    question: str
    earlier: str
    answers: list[str]
    rule: str
    responses: list[str]
    right: list[bool]
    tokens: list[int]
    pictures: list[str]


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Writes answers.parquet."""
    pq.write_table(pa.Table.from_pylist([asdict(answer) for answer in answers], schema=_SCHEMA), path)  # pyright: ignore[reportUnknownArgumentType]


def read_answers(path: Path) -> list[Answer]:
    """Raises UserError for a file that is missing or damaged."""
    try:
        return [Answer(**row) for row in cast(list[dict[str, Any]], pq.read_table(path).to_pylist())]
    except (OSError, ValueError, TypeError) as error:  # pyarrow's own errors are ValueErrors
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); evaluate again") from None


def per_item(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Row name -> question id -> score. A sampled reasoning question feeds four rows."""
    scores: dict[str, dict[str, float]] = {}
    for each in answers:
        rows = {each.suite: statistics.fmean(each.right)}
        if each.suite == "reasoning":
            rows["reasoning_pass_k"] = pass_at_k(sum(each.right), len(each.right), len(each.right))
            rows["diversity"] = float(distinct(each.responses))
            rows["length"] = statistics.fmean(each.tokens)
        for row, score in rows.items():
            scores.setdefault(row, {})[each.id] = score
    return scores


def summarise(answers: Sequence[Answer], confidence: float) -> dict[str, Any]:
    """`suites`, `groups` and `lengths` of results.json. Shares of yes/no items get Wilson's interval."""
    scores = per_item(answers)
    suites: dict[str, Any] = {}
    for name, row in ROWS.items():
        values = list(scores.get(name, {}).values())
        if not values:
            continue
        interval = _interval(row, values, confidence, name)
        suites[name] = _described(row) | {"items": len(values)} | interval.as_dict()
    groups: dict[str, Any] = {}
    for name, row in GROUPS.items():
        if all(part in scores for part in row.of):
            members = {part: list(scores[part].values()) for part in row.of}
            interval = mean_of([_interval(ROWS[part], values, confidence, part) for part, values in members.items()])
            count = sum(map(len, members.values()))
            groups[name] = _described(row) | {"of": list(row.of), "items": count} | interval.as_dict()
    return {"suites": suites, "groups": groups, "lengths": _lengths(answers)}


def _interval(row: Row, values: Sequence[float], confidence: float, name: str) -> Interval:
    if row.unit == "share" and all(value in (0.0, 1.0) for value in values):
        return wilson(round(sum(values)), len(values), confidence)
    return bootstrap([values], confidence, f"suite/{name}")


def differences(answers: Sequence[Answer], others: Sequence[Answer], confidence: float) -> dict[str, dict[str, float]]:
    """This model minus the other, row by row, paired by question. ValueError when they were asked different things."""
    mine, theirs = per_item(answers), per_item(others)
    if {row: set(scores) for row, scores in mine.items()} != {row: set(scores) for row, scores in theirs.items()}:
        raise ValueError("the two evaluations asked different questions: use the same recipe section and seed")
    paired = {row: [score - theirs[row][key] for key, score in scores.items()] for row, scores in mine.items()}
    result = {row: bootstrap([paired[row]], confidence, f"difference/{row}").as_dict() for row in ROWS if row in paired}
    for name, group in GROUPS.items():
        if all(part in paired for part in group.of):
            members = [paired[part] for part in group.of]
            result[name] = bootstrap(members, confidence, f"difference/{name}").as_dict()
    return result


def _described(row: Row) -> dict[str, str]:
    return {"title": row.title, "about": row.about, "unit": row.unit, "better": row.better}


def _lengths(answers: Sequence[Answer]) -> dict[str, Any]:
    tokens = [count for each in answers if each.suite == "reasoning" for count in each.tokens]
    if not tokens:
        return {}
    p10, p50, p90, p99 = (float(value) for value in np.percentile(tokens, [10, 50, 90, 99]))
    counts = np.bincount(tokens).tolist()
    return {
        "mean": round(statistics.fmean(tokens), 6),
        "p10": p10,
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "counts": counts,
    }


_SCHEMA = pa.schema(  # pyright: ignore[reportUnknownVariableType]
    [
        *((name, pa.string()) for name in ("id", "suite", "task", "language", "question", "earlier")),
        ("answers", pa.list_(pa.string())),
        ("rule", pa.string()),
        ("responses", pa.list_(pa.string())),
        ("right", pa.list_(pa.bool_())),
        ("tokens", pa.list_(pa.int64())),
        ("pictures", pa.list_(pa.string())),
    ]
)
