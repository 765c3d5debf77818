"""The one table of a run: every suite, base to final model, with intervals; for the page, for files, for a terminal.

`table.json` (schema 1): `models` (name, title) in the order of the run, `confidence`, and `rows` (name, title, about,
unit, better, group) whose `cells` have, for each model, {score, low, high, difference}: `difference` {score, low, high}
is from the base, paired by question; null for the base itself and where it was not measured. A cell is null where a
model was not asked.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from open4ov.errors import UserError

Results = Mapping[str, Any]
"""A results.json of `evaluate` (schema 1)."""

TITLES = {
    "base": "base",
    "sft_knowledge": "1 knowledge",
    "sft_ability": "2 ability",
    "sft_preference": "3 preference",
    "rl": "RL",
    "dpo": "DPO",
}
GROUP_PLACES = {
    "general": ("arithmetic",),
    "text": ("in_car_en", "vertical_en", "vertical_zh", "reasoning_greedy"),
    "vertical": ("reasoning_greedy",),
}
"""Each group's row stands before the first of these suites that there is: after its last member."""


def build(results: Mapping[str, Results]) -> dict[str, Any]:
    """The contents of table.json from model name -> results, base first. ValueError for none, or mixed settings."""
    if not results:
        raise ValueError("no evaluation to report")
    first = next(iter(results.values()))
    for name, result in results.items():
        if result["schema"] != 1:
            raise ValueError(f"the evaluation of {name} has schema {result['schema']}; this report reads schema 1")
        for setting in ("confidence", "items", "samples", "seed"):
            if result[setting] != first[setting]:
                raise ValueError(f"the evaluation of {name} used another {setting}; evaluate all models alike")
    rows: list[dict[str, Any]] = []
    for name in _order(list(results.values())):
        kind, about = _about(list(results.values()), name)
        row = {key: about[key] for key in ("title", "about", "unit", "better")}
        cells = [_cell(result, kind, name) for result in results.values()]
        rows.append({"name": name, **row, "group": kind == "groups", "items": about["items"], "cells": cells})
    models = [{"name": name, "title": TITLES.get(name, name)} for name in results]
    return {
        "schema": 1,
        **{key: first[key] for key in ("confidence", "items", "samples", "seed")},
        "models": models,
        "rows": rows,
    }


def _order(results: Sequence[Results]) -> list[str]:
    """Every row that some model was asked: suites in their order, groups where they belong."""
    names = list(dict.fromkeys(name for result in results for name in result["suites"]))
    groups = dict.fromkeys(name for result in results for name in result["groups"])
    for group in (*GROUP_PLACES, *(name for name in groups if name not in GROUP_PLACES)):
        if group in groups:
            before = next((suite for suite in GROUP_PLACES.get(group, ()) if suite in names), None)
            names.insert(len(names) if before is None else names.index(before), group)
    return names


def _about(results: Sequence[Results], name: str) -> tuple[str, Any]:
    """Whether a row is one of `groups` or `suites`, and what the first model that has it says of it."""
    return next(
        (kind, result[kind][name]) for kind in ("groups", "suites") for result in results if name in result[kind]
    )


def _cell(result: Results, kind: str, name: str) -> dict[str, Any] | None:
    measured = result[kind].get(name)
    if measured is None:
        return None
    difference = result["differences"].get("base", {}).get(name)
    return {**{key: measured[key] for key in ("score", "low", "high")}, "difference": difference}


def diversity(results: Mapping[str, Results], titles: Mapping[str, str]) -> dict[str, Any] | None:
    """How the sampled responses of each model differ: `columns` (title, about, unit, better), and `rows` of (model's
    title, its {score, low, high} by column, None where it was not measured). None where no model has been sampled."""
    about: dict[str, Any] = {}
    cells: list[tuple[str, dict[str, Any]]] = []
    for name, result in results.items():
        told = {**result.get("diversity", {})}
        if distinct := result["suites"].get("diversity"):
            told = {"distinct": {**distinct, "title": "distinct"}, **told}
        about = {**told, **about}
        cells.append((titles[name], told))
    if not about:
        return None
    columns = [{key: one[key] for key in ("title", "about", "unit", "better")} for one in about.values()]
    return {"columns": columns, "rows": [(title, [told.get(name) for name in about]) for title, told in cells]}


def shown(value: float, unit: str) -> str:
    """A score as the tables print it: shares in percent with one digit, tokens with one, anything else with two."""
    return f"{100 * value:.1f}" if unit == "share" else f"{value:.1f}" if unit == "tokens" else f"{value:.2f}"


def verdict(cell: Mapping[str, Any], better: str) -> str:
    """`up` or `down` when the difference from the base is clear of zero (better or worse), else an empty string."""
    difference = cell["difference"]
    if difference is None or difference["low"] <= 0 <= difference["high"]:
        return ""
    return "up" if (difference["score"] > 0) == (better == "higher") else "down"


def render(table: Mapping[str, Any], colours: bool = True) -> Table:
    """The table for a terminal: scores with half the interval's width; green and red mark clear differences."""
    level = f"{100 * table['confidence']:g} %"
    out = Table(
        title="What each stage does",
        caption=f"percent unless said otherwise, ± half the {level} interval"
        + ("; green, red: clearly unlike the base" if colours else ""),
        caption_justify="left",
    )
    out.add_column("suite")
    for model in table["models"]:
        out.add_column(model["title"], justify="right")
    for row in table["rows"]:
        unit = "" if row["unit"] == "share" else f" ({row['unit']})"
        cells = [_styled(cell, row) for cell in row["cells"]]
        out.add_row(row["title"] + unit, *cells, style="bold" if row["group"] else None, end_section=row["group"])
    return out


def to_text(path: Path) -> str:
    """`render` of a table.json as plain text, 120 columns at most. Raises UserError for a damaged file."""
    buffer = io.StringIO()
    try:
        Console(file=buffer, width=120).print(render(json.loads(path.read_text()), colours=False))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error}); delete {path.parent} and run again"
        ) from None
    return buffer.getvalue().rstrip("\n")


def to_markdown(table: Mapping[str, Any]) -> str:
    """The same as a Markdown table, for documents."""
    titles = [model["title"] for model in table["models"]]
    lines = [f"| suite | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for row in table["rows"]:
        title = row["title"] + ("" if row["unit"] == "share" else f" ({row['unit']})")
        cells = [_plain(cell, row["unit"]) for cell in row["cells"]]
        lines.append(f"| {'**' + title + '**' if row['group'] else title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_lines(
    table: Mapping[str, Any], differences: Mapping[str, Mapping[str, float]], direction: str = "difference"
) -> str:
    """Differences {row: {score, low, high}} as a Markdown table: each with its interval, in the row's unit.
    `direction`: which model's score minus which other's."""
    lines = [f"| suite | {direction} | interval |", "|---|---|---|"]
    for row in table["rows"]:
        if found := differences.get(row["name"]):
            score, low, high = (shown(found[key], row["unit"]) for key in ("score", "low", "high"))
            sign = "+" if found["score"] > 0 else ""
            lines.append(f"| {row['title']} | {sign}{score} | {low} to {high} |")
    return "\n".join(lines)


def _plain(cell: Mapping[str, Any] | None, unit: str) -> str:
    return "–" if cell is None else f"{shown(cell['score'], unit)} ±{shown((cell['high'] - cell['low']) / 2, unit)}"


def _styled(cell: Mapping[str, Any] | None, row: Mapping[str, Any]) -> str:
    text = _plain(cell, row["unit"])
    style = None if cell is None else {"up": "green", "down": "red"}.get(verdict(cell, row["better"]))
    return f"[{style}]{text}[/]" if style else text


def row_named(table: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The row of a suite or group, None when it was not measured."""
    rows: Sequence[Mapping[str, Any]] = table["rows"]
    return next((row for row in rows if row["name"] == name), None)
