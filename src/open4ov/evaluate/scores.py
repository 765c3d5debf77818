"""From answers to the figures of a report: rows, groups, intervals, lengths, differences between two models.

`results.json` (schema 1), the same for every model of a run:

    schema, model, seed, items, samples, confidence
    suites.NAME  = {title, about, unit, better, items, score, low, high}
    groups.NAME  = the same; the score is the plain mean of the suites named in `of`
    lengths      = {mean, p10, p50, p90, p99, counts}: tokens of the sampled reasoning responses, the closing token
                   included; counts[t] is the number of responses of t tokens
    diversity.NAME = as suites.NAME, of the sampled reasoning responses: utility (NoveltyBench's, quality 1 for a right
                   response), answer_entropy (bits), self_similarity (mean cosine); absent from older results
    differences.OTHER.NAME = {score, low, high}: this model minus OTHER on the same items, paired

`score`, `low`, `high` are in `unit`: "share" (0 to 1), "count" (distinct responses), "tokens", "bits" or "cosine".
`equivalence` names what tells distinct responses apart, and `weights` what answered, where it is not the default.
"""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from open4ov.errors import UserError
from open4ov.evaluate import diversity
from open4ov.evaluate.diversity import Equivalence, equivalent
from open4ov.evaluate.metrics import Interval, bootstrap, mean_of, pass_at_k, wilson
from open4ov.refusals import refuses


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
    "context_turns": Row("irrelevant turns", "an image question after four unrelated exchanges, one about a picture"),
    "missing_image_zh": Row("missing image, Chinese", "as missing image, all in Chinese"),
    "mismatch_zh": Row("irrelevant picture, Chinese", "a sum in Chinese beside an unrelated picture"),
    "context_zh": Row("irrelevant context, Chinese", "as irrelevant context, all in Chinese"),
    "absent_zh": Row("absent object, Chinese", "as absent object, all in Chinese"),
    "false_refusal": Row(
        "false refusals", "an image question with its picture: says that there is none", better="lower"
    ),
    "language_only": Row(
        "language only",
        "an image question without its picture, answered rightly all the same: guessed, or leaked",
        better="lower",
    ),
    "verbosity": Row("verbosity", "tokens of an answer beyond the shortest right one", "tokens", "lower"),
}
"""Every suite, in the order of the table."""

OWN: dict[str, Row] = {
    "vertical_en": Row("vertical, English", "held-out pictures of the recipe's own folder"),
    "vertical_zh": Row("vertical, Chinese", "the same in Chinese"),
}
"""Suites of a folder's vertical, which stand where the shipped one's would (`held_out.py`)"""
LANGUAGES = {"vertical_en": "English", "vertical_zh": "Chinese"}
SHIPPED = ("in_car_en", "in_car_zh")
"""Suites of the shipped vertical"""

DERIVED = ("false_refusal", "language_only", "verbosity")
"""Rows that are read off the answers of other suites; answers of older runs may lack them."""
PICTURED = ("naming", "colour", "counting", "reading", "position", "comparing", "charts", *SHIPPED, *OWN)
"""Suites whose questions can be answered, with their pictures"""
BRIEF = (*PICTURED, "arithmetic", "instruction")
"""Suites whose right answers are as short as can be said, or sentences of a known length"""

GROUPS: dict[str, Row] = {
    "general": Row(
        "general ability",
        "mean of the seven image suites",
        of=("naming", "colour", "counting", "reading", "position", "comparing", "charts"),
    ),
    "vertical": Row("vertical", "mean of the in-car suites", of=SHIPPED),
    "text": Row("text only", "mean of the suites without pictures", of=("arithmetic", "instruction")),
}

DIVERSITY: dict[str, Row] = {
    "utility": Row("utility", "right and distinct responses, as one reads on with patience (NoveltyBench)"),
    "answer_entropy": Row("entropy of answers", "how the samples of a question spread over answers", "bits"),
    "self_similarity": Row("self-similarity", "how alike the wording of the samples is", "cosine", "lower"),
}
"""Figures beside the table, from the sampled reasoning responses."""


@dataclass(frozen=True)
class Answer:
    """What one model said to one question: `responses`, whether each is `right`, and its length in `tokens`.

    `earlier` is the conversation before the last question; `pictures` are `ImageStore` digests; older runs have them
    of the first questions of a suite alone. `blind`: of a question whose picture was taken away, whether each response
    is right all the same. `shortest`: tokens of its shortest right answer, the closing token included; None where none
    is told. Both are empty in files of older runs.
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
    blind: list[bool] = field(default_factory=list[bool])
    shortest: int | None = None


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Writes answers.parquet."""
    pq.write_table(pa.Table.from_pylist([asdict(answer) for answer in answers], schema=_SCHEMA), path)  # pyright: ignore[reportUnknownArgumentType]


def read_answers(path: Path) -> list[Answer]:
    """Raises UserError for a file that is missing or damaged."""
    try:
        return [Answer(**row) for row in cast(list[dict[str, Any]], pq.read_table(path).to_pylist())]
    except pa.ArrowException:  # what Arrow says of it is of no use to a reader
        raise UserError(f"{path}: is no whole Parquet file; {_again(path)}") from None
    except (OSError, ValueError, TypeError) as error:  # pyarrow's own errors are ValueErrors
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); {_again(path)}") from None


def _again(path: Path) -> str:
    return f"delete the folder {path.parent}, and `open4ov run` with the same recipe and --out evaluates again"


def rows(scored: Collection[str], name: str | None = None) -> dict[str, Row]:
    """Every suite that there could be beside those `scored`, in the order of the table. `name`: of a folder's vertical,
    as its suites are called."""
    own = {suite: row for suite, row in OWN.items() if suite in scored}
    if not own:
        return ROWS
    if name:
        own = {suite: replace(row, title=f"{name}, {LANGUAGES[suite]}") for suite, row in own.items()}
    found: dict[str, Row] = {}
    for suite, row in ROWS.items():
        if suite == SHIPPED[0]:
            found |= own
        found[suite] = row
    return found


def groups(scored: Collection[str]) -> dict[str, Row]:
    """The groups, of what is `scored`: a folder's vertical has its own suites."""
    own = tuple(suite for suite in OWN if suite in scored)
    if not own:
        return GROUPS
    return {**GROUPS, "vertical": replace(GROUPS["vertical"], about="mean of the vertical's suites", of=own)}


def per_item(answers: Sequence[Answer], same: Equivalence = equivalent) -> dict[str, dict[str, float]]:
    """Row name -> question id -> score. A sampled reasoning question feeds four rows, others those of DERIVED."""
    scores: dict[str, dict[str, float]] = {}
    for each in answers:
        told = {each.suite: statistics.fmean(each.right)}
        if each.suite == "reasoning":
            told["reasoning_pass_k"] = pass_at_k(sum(each.right), len(each.right), len(each.right))
            told["diversity"] = float(diversity.distinct(each.responses, same))
            told["length"] = statistics.fmean(each.tokens)
        if each.suite in PICTURED:
            told["false_refusal"] = statistics.fmean(refuses(response) for response in each.responses)
        if each.suite == "missing_image" and each.blind:
            told["language_only"] = statistics.fmean(each.blind)
        if each.suite in BRIEF and each.shortest is not None:
            told["verbosity"] = max(0.0, statistics.fmean(each.tokens) - each.shortest)
        for row, score in told.items():
            scores.setdefault(row, {})[each.id] = score
    return scores


def summarise(
    answers: Sequence[Answer], confidence: float, same: Equivalence = equivalent, vertical: str | None = None
) -> dict[str, Any]:
    """`suites`, `groups`, `lengths` and `diversity` of results.json. Shares of yes/no items get Wilson's interval.
    `same`: which of the sampled responses say the same; `vertical`: what a folder's vertical is called."""
    scores = per_item(answers, same)
    suites: dict[str, Any] = {}
    told = rows(scores, vertical)
    for name, row in told.items():
        values = list(scores.get(name, {}).values())
        if not values:
            continue
        interval = _interval(row, values, confidence, name)
        suites[name] = _described(row) | {"items": len(values)} | interval.as_dict()
    means: dict[str, Any] = {}
    for name, row in groups(scores).items():
        if all(part in scores for part in row.of):
            members = {part: list(scores[part].values()) for part in row.of}
            interval = mean_of([_interval(told[part], values, confidence, part) for part, values in members.items()])
            count = sum(map(len, members.values()))
            means[name] = _described(row) | {"of": list(row.of), "items": count} | interval.as_dict()
    return {
        "suites": suites,
        "groups": means,
        "lengths": _lengths(answers),
        "diversity": _diversity(answers, confidence, same),
    }


def _interval(row: Row, values: Sequence[float], confidence: float, name: str) -> Interval:
    if row.unit == "share" and all(value in (0.0, 1.0) for value in values):
        return wilson(round(sum(values)), len(values), confidence)
    return bootstrap([values], confidence, f"suite/{name}")


def differences(
    answers: Sequence[Answer], others: Sequence[Answer], confidence: float, same: Equivalence = equivalent
) -> dict[str, dict[str, float]]:
    """This model minus the other, row by row, paired by question. ValueError when they were asked different things."""
    mine, theirs = per_item(answers, same), per_item(others, same)
    for row in DERIVED:  # an older run may lack one, and there is nothing to pair then
        if row not in mine or row not in theirs:
            mine.pop(row, None)
            theirs.pop(row, None)
    if {row: set(scores) for row, scores in mine.items()} != {row: set(scores) for row, scores in theirs.items()}:
        raise ValueError("the two evaluations asked different questions: use the same recipe section and seed")
    paired = {row: [score - theirs[row][key] for key, score in scores.items()] for row, scores in mine.items()}
    known = [row for row in rows(paired) if row in paired]
    result = {row: bootstrap([paired[row]], confidence, f"difference/{row}").as_dict() for row in known}
    for name, group in groups(paired).items():
        if all(part in paired for part in group.of):
            members = [paired[part] for part in group.of]
            result[name] = bootstrap(members, confidence, f"difference/{name}").as_dict()
    return result


def _described(row: Row) -> dict[str, str]:
    return {"title": row.title, "about": row.about, "unit": row.unit, "better": row.better}


def _diversity(answers: Sequence[Answer], confidence: float, same: Equivalence) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for each in answers:
        if each.suite != "reasoning":
            continue
        told = {
            "utility": diversity.utility(each.responses, [float(right) for right in each.right], same),
            "answer_entropy": diversity.entropy(diversity.partition(each.responses, diversity.same_answer)),
        }
        if len(each.responses) > 1:
            told["self_similarity"] = diversity.self_similarity(each.responses)
        for name, value in told.items():
            found.setdefault(name, []).append(value)
    return {
        name: _described(row)
        | {"items": len(found[name])}
        | bootstrap([found[name]], confidence, f"suite/{name}").as_dict()
        for name, row in DIVERSITY.items()
        if name in found
    }


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
        ("blind", pa.list_(pa.bool_())),
        ("shortest", pa.int64()),
    ]
)
