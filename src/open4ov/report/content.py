"""All that a report shows, gathered from what there is of a run: once for the page and for its figures as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from open4ov.report import (
    answers,
    cases,
    changes,
    costs,
    label_tree,
    paired_cases,
    plots,
    plots_changes,
    plots_data,
    plots_headline,
    rollouts,
    training_sets,
)
from open4ov.report.drawing import Drawing
from open4ov.report.found import Found
from open4ov.report.offline import offline
from open4ov.report.pool import pool
from open4ov.report.table import TITLES, build, diversity, row_named

HEADLINES = ("vertical", "general", "text", "reasoning", "missing_image", "length")
TRAJECTORY = ("general", "vertical", "text", "reasoning", "reasoning_pass_k", "missing_image")
TRAININGS = {
    "sft_knowledge": "stage 1: knowledge",
    "sft_ability": "stage 2: ability remedy",
    "sft_preference": "stage 3: preference",
    "rl": "online RL",
    "dpo": "offline RL: DPO",
}
NO_GALLERY: dict[str, Any] = {"models": [], "suites": {}, "texts": [], "pictures": {}, "left_out": 0, "cases": []}


@dataclass
class Content:
    """`figures`: by name, for the page and for export. `page`: what the templates name. `table`: None where nothing has
    been evaluated. `answers`: model -> rows, all of the same questions."""

    figures: dict[str, Drawing]
    page: dict[str, Any]
    table: dict[str, Any] | None
    answers: dict[str, list[answers.Row]] = field(default_factory=dict[str, list[answers.Row]])


def gather(found: Found) -> Content:
    """Reads everything. Raises what is wrong with a file where `found.strict`; else says it in `found.problems`."""
    results = evaluations(found)
    table = build(results) if results else None
    if found.strict and table is None:
        raise ValueError("no evaluation to report")
    rows = asked_alike(found, results)
    drawn: list[Drawing | None] = []
    page: dict[str, Any] = {"table": table, "headlines": [], "changes": [], "length_rows": [], "sampled": None}
    page["spread"] = None
    page["gallery"] = NO_GALLERY
    if table is not None:
        groups = vertical_and_others(results)
        page |= _of_models(found, table, results, rows, groups)
        drawn += _figures(table, results)
        fates = changes.fates(rows, groups) if len(rows) > 1 else {}
        page["fates"] = fates
        drawn.append(plots_changes.fates(fates, [TITLES.get(name, name) for name in rows][1:]))
    page.setdefault("fates", {})
    page.setdefault("paired", [])
    curves: dict[str, Sequence[Mapping[str, Any]]] = {
        name: points for name in TRAININGS if (points := found.json(name, "curve.json")) is not None
    }
    drawn += [plots.curve(name, TRAININGS[name], points) for name, points in curves.items()]
    page |= _of_data(found, drawn)
    if table is not None and rows:  # after all others, since it takes what room for pictures they leave
        titles = {model["name"]: model["title"] for model in table["models"]}
        page["gallery"] = cases.gallery(rows, titles, page["titles"], found.pictures)
    took = costs.stages(found, curves, rows)
    drawn.append(plots_data.times([(one["name"], one["seconds"]) for one in took if one["seconds"] is not None]))
    drawn.append(plots_data.tokens([(one["name"], one["tokens"]) for one in took if one["tokens"]]))
    page |= {
        "name": found.name,
        "stages": took,
        "asked": costs.asked(page["data"] or {}),
        "kinds": costs.KINDS,
        "recipe": json.dumps(found.recipe, indent=1, ensure_ascii=False),
        "about": found.about,
    }
    figures = {drawing.name: drawing for drawing in drawn if drawing is not None}
    page["curves"] = [name for name in figures if name.startswith("curve-")]
    return Content(figures, page, table, rows)


def evaluations(found: Found) -> dict[str, Mapping[str, Any]]:
    """model -> results.json, base to final; not strict, without those that the others cannot be compared with."""
    known = [name for name in found.inputs if name.startswith("evaluate_")]
    order = [f"evaluate_{model}" for model in TITLES]
    known.sort(key=lambda name: order.index(name) if name in order else len(order))
    results: dict[str, Mapping[str, Any]] = {}
    for name in known:
        result = found.json(name, "results.json")
        if result is None:
            continue
        model = name.removeprefix("evaluate_")
        if found.part(f"evaluation of {model}", lambda more={**results, model: result}: build(more)) is not None:
            results[model] = result
    return results


def asked_alike(found: Found, results: Mapping[str, Any]) -> dict[str, list[answers.Row]]:
    """model -> its answers; without models that were asked other questions than the first. Strict: ValueError."""
    read: dict[str, list[answers.Row]] = {}
    for model in results:
        folder = found.inputs[f"evaluate_{model}"]
        rows = found.part(f"answers of {model}", lambda folder=folder: answers.read(folder), folder.name)
        if rows is None:
            continue
        if unlike := answers.alike({**read, model: rows}):
            told = f"evaluate_{unlike} asked other questions than {next(iter(read))}; evaluate both alike"
            if found.strict:
                raise ValueError(told)
            found.problems.append(f"answers of {unlike}: left out; {told}")
            continue
        read[model] = rows
    return read


def vertical_and_others(results: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Titles of the groups that were measured -> their suites."""
    found: dict[str, list[str]] = {}
    for result in results.values():
        for group in result["groups"].values():
            found.setdefault(group["title"], list(group.get("of", ())))
    return found


def _of_models(
    found: Found,
    table: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Sequence[answers.Row]],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    titles = {model["name"]: model["title"] for model in table["models"]}
    sampled = row_named(table, "reasoning")
    page: dict[str, Any] = {
        "headlines": [row for each in HEADLINES if (row := row_named(table, each)) is not None],
        "changes": found.part("changes by stage", lambda: changes.stages(table, results, rows)) or [],
        "length_rows": [(titles[key], told) for key, result in results.items() if (told := result.get("lengths"))],
        "spread": diversity(results, titles),
        "sampled": sampled["items"] if sampled is not None else None,
    }
    if rows:
        suites = {row["name"]: row["title"] for row in table["rows"]}
        first, *_, last = rows if len(rows) > 1 else (*rows, *rows)
        pairs = list(zip(rows[first], rows[last], strict=True)) if len(rows) > 1 else []
        vertical = groups.get("vertical", [])
        page["titles"] = suites
        page["pair"] = (titles[first], titles[last])
        page["paired"] = [one for one in paired_cases.shown(pairs, vertical, found.pictures) if one.asked]
    return page


def _figures(table: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> list[Drawing | None]:
    titles = {model["name"]: model["title"] for model in table["models"]}
    return [
        plots_headline.radar(table),
        plots.trajectory(table, TRAJECTORY),
        plots.abilities(table),
        plots.lengths(results, titles),
        plots.diversity(table),
    ]


def _of_data(found: Found, drawn: list[Drawing | None]) -> dict[str, Any]:
    """Sections about data and training; their figures are put into `drawn`."""
    data = found.json("data", "report.json")
    trees = found.part("label coverage", lambda: label_tree.axes(data)) if data else None
    for one in trees or ():
        title = f"{one['title']}: {one['covered']} of {one['labels']} second-level labels have samples"
        drawn.append(plots_data.label_tree(one["axis"], title, one["branches"]))
    tasks = found.part("RL tasks", lambda: pool(found.inputs))
    drawn += tasks["drawings"] if tasks else []
    return {
        "data": data,
        "trees": trees or [],
        "left_out": found.json("images", "skipped.json") or (),
        "sets": found.part("training sets", lambda: training_sets.sets(found.inputs)) or [],
        "blend": found.part("stage 2's blend", lambda: training_sets.blend(found.inputs)),
        "rolled": found.part("rollouts", lambda: rollouts.steps(found.inputs, found.pictures)) or [],
        "pool": tasks,
        "offline": found.part("preference pairs", lambda: offline(found.inputs, found.pictures)),
    }
