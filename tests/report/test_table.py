"""The one table: order, cells, what counts as a clear difference, and how a terminal shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from open4ov.report.table import build, diversity, row_named, shown, to_text, verdict


def results(model: str, score: float, difference: dict[str, float] | None = None) -> dict[str, Any]:
    row = {"title": "naming", "about": "what", "unit": "share", "better": "higher", "items": 4}
    measured = {**row, "score": score, "low": score - 0.1, "high": score + 0.1}
    return {
        "schema": 1, "model": model, "seed": 0, "items": 4, "samples": 2, "confidence": 0.95,
        "suites": {"naming": measured, "arithmetic": {**measured, "title": "arithmetic"}},
        "groups": {"general": {**measured, "title": "general"}},
        "lengths": {},
        "differences": {"base": {"naming": difference}} if difference else {},
    }  # fmt: skip


def test_rows_and_cells() -> None:
    change = {"score": 0.3, "low": 0.1, "high": 0.5}
    table = build({"base": results("base", 0.4), "rl": results("rl", 0.7, change)})
    assert [row["name"] for row in table["rows"]] == ["naming", "general", "arithmetic"]
    assert [row["group"] for row in table["rows"]] == [False, True, False]
    assert table["models"] == [{"name": "base", "title": "base"}, {"name": "rl", "title": "RL"}]
    base, rl = row_named(table, "naming")["cells"]  # type: ignore[index]
    assert base["difference"] is None
    assert rl == {"score": 0.7, "low": 0.7 - 0.1, "high": 0.7 + 0.1, "difference": change}


@pytest.mark.parametrize(
    ("low", "high", "better", "wanted"),
    [
        (0.1, 0.2, "higher", "up"), (-0.2, -0.1, "higher", "down"), (-0.1, 0.2, "higher", ""),
        (0.1, 0.2, "lower", "down"), (-0.2, -0.1, "lower", "up"),
    ],
)  # fmt: skip
def test_verdict(low: float, high: float, better: str, wanted: str) -> None:
    assert verdict({"difference": {"score": (low + high) / 2, "low": low, "high": high}}, better) == wanted
    assert verdict({"difference": None}, better) == ""


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.1234, "share", "12.3"), (2.345, "count", "2.35"), (9.87, "tokens", "9.9"), (0.587, "cosine", "0.59")],
)
def test_shown(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_how_samples_differ_is_told_of_each_model_that_was_sampled() -> None:
    cell = {"score": 0.5, "low": 0.4, "high": 0.6, "about": "how", "better": "lower"}
    old, new, none = results("base", 0.4), results("rl", 0.4), results("dpo", 0.4)
    old["suites"]["diversity"] = new["suites"]["diversity"] = {**cell, "title": "diversity", "unit": "count"}
    new["diversity"] = {"utility": {**cell, "title": "utility", "unit": "share"}}
    told = diversity({"base": old, "rl": new, "dpo": none}, {"base": "base", "rl": "RL", "dpo": "DPO"})
    assert told is not None
    assert [(column["title"], column["unit"]) for column in told["columns"]] == [
        ("distinct", "count"),
        ("utility", "share"),
    ]
    rows = [(title, [cell and cell["score"] for cell in cells]) for title, cells in told["rows"]]
    assert rows == [("base", [0.5, None]), ("RL", [0.5, 0.5]), ("DPO", [None, None])]
    assert diversity({"dpo": none}, {"dpo": "DPO"}) is None


def test_unlike_evaluations_and_none_are_refused() -> None:
    with pytest.raises(ValueError, match="another confidence"):
        build({"base": results("base", 0.4), "rl": {**results("rl", 0.4), "confidence": 0.9}})
    with pytest.raises(ValueError, match="no evaluation"):
        build({})


def test_text_of_a_run(reported: Path) -> None:
    path = reported / "table.json"
    table = json.loads(path.read_text())
    text = to_text(path)
    assert max(map(len, text.splitlines())) <= 120
    for row in table["rows"]:
        assert row["title"] in text
    final = row_named(table, "vertical")["cells"][-1]  # type: ignore[index]
    assert shown(final["score"], "share") in text
    assert "DPO" in text
