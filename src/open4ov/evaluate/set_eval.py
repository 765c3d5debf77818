"""An evaluation from the questions to `evaluation.json`: asked, scored, judged, and told (`open4ov eval`).

In the folder: `answers.jsonl` (every answer as it came, with the exact prompt), `scores.jsonl` (each item's score),
`evaluation.json` (the figures), and `asked/` (the judge's kept answers and what they cost). The same command again asks
nothing that has been answered. `evaluation.json` is schema "open4ov.evaluation/1":

    model, settings, partial, stopped, asked (now), kept (from before)
    suites.NAME = {title, metric, rule, prompt, ..., items, scored, questions, clusters, score, low, high, lowest,
                   partial, faults, responses, empty, undecided, cut, categories, ...}
    groups.NAME = {of, score, low, high};  not_run.NAME = why;  judge = what it took
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from open4ov.evaluate.answer_book import AnswerBook, Entry
from open4ov.evaluate.answering import Answerer, Asked
from open4ov.evaluate.figures import SCHEMA, Question, Scored, figures, grouped, questions
from open4ov.evaluate.file_suite import counted
from open4ov.evaluate.item import Fault, Item, Suite
from open4ov.evaluate.judging import SetJudge
from open4ov.evaluate.scoring import Reference, Score, score
from open4ov.run_dir import alone
from open4ov.store import atomic, write_json

SHOWN = 50
"""Faults of a set that are written out; all are counted"""


class Told(Protocol):
    """Hears how far an evaluation is."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@dataclass
class Plan:
    """What is to be evaluated. `groups`: name -> sets whose mean is told; `not_run`: sets that cannot be asked, and
    why. `rotated`: rotations of a question count as one, whatever the set says. `settings`: for the record."""

    suites: Sequence[Suite]
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    not_run: dict[str, str] = field(default_factory=dict[str, str])
    rotated: bool = False
    confidence: float = 0.95
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


def evaluate(
    plan: Plan, answerer: Answerer, out: Path, judge: SetJudge | None = None, told: Told | None = None
) -> dict[str, Any]:
    """Asks, scores and writes; gives the contents of `evaluation.json`. What is answered is kept whatever happens.

    Raises UserError when the folder is in use or cannot be written.
    """
    with alone(out):
        book = AnswerBook(out)
        try:
            suites = [suite for suite in plan.suites if judge is not None or not suite.benchmark.judged]
            not_run = dict(plan.not_run)
            for suite in plan.suites:
                if suite not in suites:
                    not_run[suite.name] = "needs a judge (--judge URL --judge-model NAME)"
            asked = answerer.ask(suites, book, None if told is None else lambda done, of: told("answers", done, of))
            held = book.entries()
        finally:
            book.close()
        results: dict[str, Any] = {
            "schema": SCHEMA,
            "model": answerer.identity,
            "settings": dict(plan.settings),
            "confidence": plan.confidence,
            "partial": bool(asked.stopped),
            "stopped": asked.stopped,
            "asked": asked.asked,
            "kept": asked.kept,
            "suites": {},
        }
        measured: dict[str, list[Question]] = {}
        lines: list[dict[str, Any]] = []
        for suite in suites:
            answered, wanted = _answered(suite, held, answerer.identity)
            scored, unjudged = _scored(suite, answered, judge, told)
            rotated = plan.rotated or suite.benchmark.circular == "file"
            whole = _whole_groups(scored) if rotated else scored
            row = _described(suite, asked, plan)
            row |= figures(
                suite.name,
                whole,
                wanted,
                asked.refused[suite.name],
                suite.benchmark.average,
                rotated,
                plan.confidence,
            )
            row["answered"] = len(answered)
            if unjudged:
                row["unjudged"] = {"count": len(unjudged), "first": unjudged[:3]}
            row["partial"] = bool(len(whole) < wanted or asked.faults.get(suite.name))
            results["partial"] |= row["partial"]
            results["suites"][suite.name] = row
            measured[suite.name] = questions(whole, rotated)
            lines += [_line(each, rotated, suite) for each in whole]
        results["groups"] = grouped(plan.groups, measured, plan.confidence)
        results["not_run"] = not_run
        if judge is not None:
            results["judge"] = judge.report()
        with atomic(out / "scores.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
        write_json(out / "evaluation.json", results)
    return results


def _answered(suite: Suite, held: Mapping[str, Entry], identity: str) -> tuple[list[tuple[Entry, Item]], int]:
    """The items with an answer, and how many there are in all. What counts as right is read anew: an answer is kept by
    what was asked, and its reference may have been mended since."""
    found: list[tuple[Entry, Item]] = []
    wanted = 0
    for item in suite.items():
        if isinstance(item, Fault):
            continue
        wanted += 1
        key = item.key(identity)
        if (kept := held.get(key)) is not None:
            said = list(zip(kept.responses, kept.tokens, kept.finish, strict=True))
            found.append((Entry.of(item, key, identity, said), item))
    return found, wanted


def _scored(
    suite: Suite, answered: Sequence[tuple[Entry, Item]], judge: SetJudge | None, told: Told | None
) -> tuple[list[Scored], list[str]]:
    """The answers with their scores, and why the others have none."""
    if not suite.benchmark.judged:
        return [Scored(entry, tuple(_score(entry, text) for text in entry.responses)) for entry, _ in answered], []
    assert judge is not None
    found = judge.verdicts(answered, None if told is None else lambda done, of: told("judged", done, of))
    scored = [
        Scored(entry, tuple(found.scores[entry.id, number] for number in range(len(entry.responses))))
        for entry, _ in answered
        if all((entry.id, number) in found.scores for number in range(len(entry.responses)))
    ]
    return scored, list(found.unjudged.values())


def _score(entry: Entry, response: str) -> Score:
    reference = Reference(entry.answers, entry.options, entry.others, entry.category, entry.details)
    return score(entry.rule, response, reference)


def _whole_groups(scored: Sequence[Scored]) -> list[Scored]:
    """Rotated questions that lack a rotation are left out: those that are there would make them easier. How many there
    should be is taken from the largest group of as many options."""
    sizes = Counter(each.entry.group for each in scored)
    most: dict[int, int] = {}
    for each in scored:
        options = len(each.entry.options)
        most[options] = max(most.get(options, 0), sizes[each.entry.group])
    return [each for each in scored if sizes[each.entry.group] == most[len(each.entry.options)]]


def _described(suite: Suite, asked: Asked, plan: Plan) -> dict[str, Any]:
    entry = suite.benchmark
    told: dict[str, Any] = {
        "title": entry.title,
        "type": entry.type,
        "rule": entry.rule,
        "metric": entry.metric,
        "prompt": suite.template,
        "max_tokens": entry.max_tokens,
        "split": entry.split,
        "source": suite.source,
        "average": entry.average,
        "rotated": plan.rotated or entry.circular == "file",
    }
    for name in ("row", "ability", "licence", "differs"):
        if value := getattr(entry, name):
            told[name] = value
    faults = asked.faults.get(suite.name, [])
    if faults:
        told["faults"] = {
            "count": len(faults),
            "kinds": counted(faults),
            "first": [{"place": fault.place, "reason": fault.reason} for fault in faults[:SHOWN]],
        }
    return told


def _line(each: Scored, rotated: bool, suite: Suite) -> dict[str, Any]:
    entry = each.entry
    return {
        "suite": entry.suite,
        "id": entry.id,
        "score": round(each.value, 6),
        "read": [score.read for score in each.scores],
        "group": entry.group if rotated else entry.id,
        "cluster": entry.cluster or entry.id,
        "category": entry.category,
        "detail": entry.details.get("l2-category", ""),
        "average": suite.benchmark.average,
    }
