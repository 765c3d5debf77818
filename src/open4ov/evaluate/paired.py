"""Two evaluations of `open4ov eval` side by side: difference, interval and test of each set both were asked.

Pairs are questions with the same name; clusters as in the evaluations. With several sets several tests are made, so
that one of twenty comes out below 0.05 by chance: p values are adjusted by Holm's method, over all sets compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.evaluate.figures import SCHEMA, Question, parts
from open4ov.evaluate.statistics import Value, holm, interval, paired
from open4ov.run_dir import read_json

DIRECTION = "first minus second"
"""Of differences; `open4ov report compare A B` of two runs tells B minus A instead, and says so"""


@dataclass(frozen=True)
class Difference:
    """The first less the second on one set, in shares. `only`: questions that only one of them has a score of."""

    suite: str
    questions: int
    only: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    adjusted: float
    test: str


@dataclass(frozen=True)
class Comparison:
    """Differences, and sets that cannot be compared with the reason."""

    first: str
    second: str
    differences: list[Difference]
    not_compared: dict[str, str]
    confidence: float

    def data(self) -> dict[str, Any]:
        """For a program."""
        rows = [{name: _rounded(value) for name, value in each.__dict__.items()} for each in self.differences]
        return {"first": self.first, "second": self.second, "differences": rows, "not_compared": self.not_compared,
                "direction": DIRECTION, "confidence": self.confidence, "adjustment": "Holm"}  # fmt: skip


def is_evaluation(folder: Path) -> bool:
    """Whether a folder holds an evaluation of this command."""
    return (read_json(folder / "evaluation.json") or {}).get("schema") == SCHEMA


def compare(first: Path, second: Path) -> Comparison:
    """Raises UserError for a folder without an evaluation, and where nothing was asked of both in the same words."""
    one, two = _read(first), _read(second)
    confidence = float(one["confidence"])
    told: dict[str, tuple[list[list[Value]], int, int, float, float]] = {}
    not_compared: dict[str, str] = {}
    scores = _scores(first), _scores(second)
    for name in [*one["suites"], *(name for name in two["suites"] if name not in one["suites"])]:
        reason = _hindrance(one["suites"].get(name), two["suites"].get(name))
        mine, theirs = (found.get(name, {}) for found in scores)
        both = mine.keys() & theirs.keys()
        if reason is None and not both:
            reason = "no question has a score in both"
        if reason is not None:
            not_compared[name] = reason
            continue
        average = one["suites"][name]["average"]
        split = [parts([found[key] for key in sorted(both)], average) for found in (mine, theirs)]
        joined = [
            [Value(a.value - b.value, a.cluster) for a, b in zip(split[0][part], split[1][part], strict=True)]
            for part in split[0]
        ]
        means = [sum(sum(v.value for v in part) / len(part) for part in of.values()) / len(of) for of in split]
        told[name] = joined, len(both), len(mine.keys() ^ theirs.keys()), means[0], means[1]
    if not told:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in not_compared.items())
        raise UserError(f"{first} and {second}: nothing to compare ({reasons or 'both are empty'})")
    tests = {name: paired(found[0], f"paired/{name}") for name, found in told.items()}
    adjusted = holm({name: p for name, (p, _) in tests.items()})
    differences: list[Difference] = []
    for name, (joined, count, only, mean, other) in told.items():
        found = interval(joined, confidence, f"difference/{name}", signed=True)
        p, test = tests[name]
        differences.append(
            Difference(name, count, only, mean, other, found.value, found.low, found.high, p, adjusted[name], test)
        )
    return Comparison(str(one["model"]), str(two["model"]), differences, not_compared, confidence)


def to_text(found: Comparison) -> str:
    """A table in Markdown, with what the p values mean."""
    level = f"{found.confidence:.0%}"
    lines = [
        f"first: {found.first}",
        f"second: {found.second}",
        "",
        f"| set | questions | first | second | {DIRECTION} | {level} interval | p | p (Holm) | test |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for each in found.differences:
        lines.append(
            f"| {each.suite} | {each.questions} | {100 * each.first:.1f} | {100 * each.second:.1f} | "
            f"{100 * each.difference:+.1f} | {100 * each.low:+.1f} to {100 * each.high:+.1f} | {each.p:.3g} | "
            f"{each.adjusted:.3g} | {each.test} |"
        )
    count = len(found.differences)
    if count > 1:
        lines += ["", f"{count} sets are compared: judge by the adjusted p, which keeps the chance of any false "
                  "finding among them below its level. Intervals are of each set by itself."]  # fmt: skip
    partial = [each for each in found.differences if each.only]
    for each in partial:
        lines += ["", f"{each.suite}: {each.only} questions have a score in one evaluation only, and are left out."]
    for name, reason in found.not_compared.items():
        lines += ["", f"{name}: not compared: {reason}"]
    return "\n".join(lines)


def _hindrance(one: dict[str, Any] | None, two: dict[str, Any] | None) -> str | None:
    if one is None or two is None:
        return f"only the {'second' if one is None else 'first'} was asked it"
    for name in ("prompt", "rule", "average", "rotated"):
        if one.get(name) != two.get(name):
            return f"{name} was another: scores of different wording or scoring say nothing about the models"
    return None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "evaluation.json"
    found = read_json(path)
    if found is None:
        raise UserError(f"{path}: missing or damaged; is {folder} the --out of open4ov eval? Give its command again")
    if found.get("schema") != SCHEMA:
        raise UserError(f"{path}: is of another version ({found.get('schema')}); evaluate again, answers are kept")
    return found


def _scores(folder: Path) -> dict[str, dict[str, Question]]:
    """Suite -> question -> its score; the least of its rotations where it has some."""
    path = folder / "scores.jsonl"
    found: dict[str, dict[str, Question]] = {}
    number = 0
    try:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):  # noqa: B007
            row = json.loads(line)
            suite, name, value = found.setdefault(row["suite"], {}), row["group"], float(row["score"])
            if name in suite:
                value = min(value, suite[name].value)
            suite[name] = Question(name, row["category"], row["cluster"], value, row["detail"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        place = "" if isinstance(error, OSError) else f", line {number}"
        raise UserError(f"{path}{place}: missing or damaged; evaluate again, answers are kept") from None
    return found


def _rounded(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value
