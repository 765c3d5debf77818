"""compare.html: two models of two runs side by side: paired differences with intervals, and the cases where they part.

What the two were asked alike is compared, by the words of the question and its reference; what only one was asked is
counted and left out. The differences are worked out by the caller's function (`evaluate.scores.differences`): a report
does no statistics of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from open4ov import page_fonts
from open4ov.errors import UserError, nearest
from open4ov.report import answers, cases, paired_cases, plots, plots_changes
from open4ov.report.drawing import Drawing
from open4ov.report.found import Found
from open4ov.report.page import page_environment
from open4ov.report.table import TITLES, build, diversity, row_named

Differences = Callable[[Sequence[str]], Mapping[str, Mapping[str, float]]]
"""Ids of the questions that both were asked -> row -> {score, low, high}: the second model minus the first, paired"""
ABSENT = "–"
"""In place of an option that a recipe does not have: of another version, or of another kind of endpoint"""
GAINED = "What B gains over A, with intervals; (less): less is better, and the sign is turned"
"""Title of the figure"""
DIRECTION = "B minus A"
FEW = 12
"""Options in which the recipes differ, up to which they are unfolded"""


@dataclass(frozen=True)
class Side:
    """One of the two: `title` as the page names it, the model's name, its answers and its results.json."""

    title: str
    model: str
    found: Found
    rows: list[answers.Row]
    results: Mapping[str, Any]


def folders(first: Path, second: Path) -> tuple[str, str]:
    """The folders of two runs by as much of their paths as tells them apart: the ends, by whole names."""
    one, other = first.resolve().parts, second.resolve().parts
    most = max(len(one), len(other))
    alike = next((n for n in range(1, most + 1) if one[-n:] != other[-n:]), 1)
    return str(Path(*one[-alike:])), str(Path(*other[-alike:]))


def side(found: Found, model: str | None, label: str, folder: str) -> Side:
    """A model of a run: the one named, or the last that was evaluated. `folder`: how its folder is told from the
    other's. UserError where there is none such."""
    evaluated = [name.removeprefix("evaluate_") for name in found.inputs if name.startswith("evaluate_")]
    order = [*TITLES, *(name for name in evaluated if name not in TITLES)]
    evaluated.sort(key=order.index)
    if not evaluated:
        raise UserError(f"{found.name}: nothing of it has been evaluated yet; run its recipe as far as evaluate_base")
    if model is not None and model not in evaluated:
        raise UserError(f"{found.name}: has not evaluated '{model}'{nearest(model, evaluated)}")
    chosen = model or evaluated[-1]
    stage = f"evaluate_{chosen}"
    results = found.json(stage, "results.json")
    rows = found.part(f"answers of {chosen}", lambda: answers.read(found.inputs[stage]), stage)
    if results is None or rows is None:
        raise UserError(f"{folder}: {'; '.join(found.problems)}")
    name = "" if found.name == folder else f"{found.name}, "
    seed = found.recipe.get("seed", results["seed"])
    title = f"{label}: {folder} ({name}seed {seed}), {TITLES.get(chosen, chosen)}"
    return Side(title, chosen, found, rows, results)


def shared(first: Side, second: Side) -> list[str]:
    """Ids of the questions that both were asked in the same words, in the first one's order. UserError for none."""
    theirs = {row.id: (row.question, row.earlier, row.reference) for row in second.rows}
    both = [row.id for row in first.rows if theirs.get(row.id) == (row.question, row.earlier, row.reference)]
    if not both:
        raise UserError(
            "the two runs were asked no question alike: give runs with the same seed and recipe section 'evaluate'"
        )
    return both


def compare(first: Side, second: Side, differences: Differences) -> dict[str, Any]:
    """What the page shows, as data: `titles`, the `direction` of differences, `rows` (name, title, unit, better,
    cells, difference, verdict), `shared`, `alone` (questions that only one was asked), `options` in which the recipes
    differ, `confidence`, `spread` (`table.diversity` of the two), and the numbers of questions that the second alone
    and the first alone answered rightly."""
    both = shared(first, second)
    found = differences(both)
    table = build({"first": _plain(first.results), "second": _plain({**second.results, **_settings(first.results)})})
    rows: list[dict[str, Any]] = []
    for row in table["rows"]:
        difference = found.get(row["name"])
        clear = difference is not None and (difference["low"] > 0 or difference["high"] < 0)
        good = difference is not None and (difference["score"] > 0) == (row["better"] == "higher")
        own = {key: row[key] for key in ("name", "title", "about", "unit", "better", "group")}
        verdict = "" if not clear else "up" if good else "down"
        rows.append({**own, "cells": row["cells"], "difference": difference, "verdict": verdict})
    pairs = _pairs(first, second, both)
    return {
        "titles": (first.title, second.title),
        "direction": DIRECTION,
        "confidence": first.results["confidence"],
        "shared": len(both),
        "alone": (len(first.rows) - len(both), len(second.rows) - len(both)),
        "fixed": sum(b.is_right and not a.is_right for a, b in pairs),
        "broken": sum(a.is_right and not b.is_right for a, b in pairs),
        "rows": rows,
        "spread": diversity(
            {"first": first.results, "second": second.results}, {"first": first.title, "second": second.title}
        ),
        "options": options(first.found.recipe, second.found.recipe),
        "table": table,
    }


def page(first: Side, second: Side, told: Mapping[str, Any]) -> str:
    """The HTML, self-contained."""
    pairs = _pairs(first, second, shared(first, second))
    names = {"first": first.title, "second": second.title}
    suites = {row["name"]: row["title"] for row in told["rows"]}
    vertical = first.results["groups"].get("vertical", {}).get("of", [])
    pictures = first.found.pictures
    paired = [one for one in paired_cases.shown(pairs, vertical, pictures) if one.asked]
    gallery = cases.gallery({"first": [a for a, _ in pairs], "second": [b for _, b in pairs]}, names, suites, pictures)
    for each in (first, second):
        each.found.finish()
    problems = [f"{each.title}: {problem}" for each in (first, second) for problem in each.found.problems]
    times = [
        (
            stage,
            *(each.found.json(stage, "stage.json") if stage in each.found.inputs else None for each in (first, second)),
        )
        for stage in dict.fromkeys([*first.found.inputs, *second.found.inputs])
    ]
    template = page_environment(figures(first, second, told)).get_template("html/compare.html.jinja")
    html = template.render(
        told=told,
        problems=problems,
        pair=names_of(told),
        titles=suites,
        paired=paired,
        gallery=gallery,
        times=times,
        headlines=[row for name in ("vertical", "general", "text", "missing_image") if (row := _row(told, name))],
        few=FEW,
    )
    return page_fonts.embedded(html)


def figures(first: Side, second: Side, told: Mapping[str, Any]) -> dict[str, Drawing]:
    """The comparison's figures by name: differences with intervals, and lengths."""
    shares = [
        (row["title"], {key: 100 * row["difference"][key] for key in ("score", "low", "high")}, row["better"])
        for row in told["rows"]
        if row["unit"] == "share" and row["difference"]
    ]
    results = {"first": first.results, "second": second.results}
    titles = dict(zip(results, told["titles"], strict=True))
    drawn = (
        plots_changes.differences(shares, "differences", GAINED, ("A is better", "B is better")),
        plots.lengths(results, titles),
    )
    return {drawing.name: drawing for drawing in drawn if drawing is not None}


def names_of(told: Mapping[str, Any]) -> tuple[str, str]:
    """How cards name the two."""
    first, second = told["titles"]
    return first.partition(":")[0], second.partition(":")[0]


def options(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value of the first, of the second) for each option in which two recipes differ, by dotted key."""
    a, b = dict(_flat(first)), dict(_flat(second))
    keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key, ABSENT) != b.get(key, ABSENT)]
    return [(key, str(a.get(key, ABSENT)), str(b.get(key, ABSENT))) for key in keys]


def _flat(tree: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        inner = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        found += _flat(inner, f"{before}{key}.") if inner else [(f"{before}{key}", value)]
    return found


def _pairs(first: Side, second: Side, both: Sequence[str]) -> list[tuple[answers.Row, answers.Row]]:
    a, b = ({row.id: row for row in each.rows} for each in (first, second))
    return [(a[one], b[one]) for one in both]


def _row(told: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return row_named(told, name)


def _plain(results: Mapping[str, Any]) -> dict[str, Any]:
    return {**results, "differences": {}}


def _settings(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the table insists on: here the questions are matched one by one."""
    return {key: results[key] for key in ("confidence", "items", "samples", "seed")}
