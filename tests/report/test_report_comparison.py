"""Two runs side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_runs import QUESTIONS, finished_run
from test_page import Links, embedded
from test_report_changes import row

from open4ov.errors import UserError
from open4ov.report import comparison, plots_changes
from open4ov.report.comparison import Side
from open4ov.report.found import Found, of_directory


def opened(folder: Path, recipe: dict[str, Any]) -> Found:
    (folder / "run.json").write_text(json.dumps({"recipe": {"name": folder.name, **recipe}}))
    return of_directory(folder, None, "1")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Side, Side]:
    """DPO of two runs that were asked the same."""
    found: list[Side] = []
    for seed, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        finished_run(tmp_path / name, seed)
        run = opened(tmp_path / name, {"rl": {"steps": 24 + seed, "lr": 0.1}, "seed": 0})
        found.append(comparison.side(run, None, name.upper(), name))
    return found[0], found[1]


def test_differences_come_from_what_both_were_asked(sides: tuple[Side, Side]) -> None:
    first, second = sides
    asked: list[list[str]] = []

    def differences(both: Any) -> dict[str, Any]:
        asked.append(list(both))
        return {"naming": {"score": 0.2, "low": 0.1, "high": 0.3}, "length": {"score": 2.0, "low": 1.0, "high": 3.0}}

    theirs = [replace(each, question="another") if each.id == "naming/3" else each for each in second.rows[1:]]
    told = comparison.compare(first, replace(second, rows=theirs), differences)
    (both,) = asked
    assert len(both) == QUESTIONS - 2
    assert "naming/0" not in both, "only the first was asked"
    assert "naming/3" not in both, "in other words"
    assert (told["shared"], told["alone"]) == (QUESTIONS - 2, (2, 1))
    rows = {row["name"]: row for row in told["rows"]}
    assert rows["naming"]["verdict"] == "up"
    assert rows["length"]["verdict"] == "down"
    assert rows["charts"]["difference"] is None
    right = {each.id: each.is_right for each in first.rows}
    wanted = sum(each.is_right and not right[each.id] for each in theirs if each.id in set(both))
    assert told["fixed"] == wanted > 0
    assert {key: (a, b) for key, a, b in told["options"]} == {"name": ("a", "b"), "rl.steps": ("24", "25")}


def test_the_page_is_self_contained_and_has_both(sides: tuple[Side, Side]) -> None:
    told = comparison.compare(*sides, lambda _: {"naming": {"score": 0.2, "low": 0.1, "high": 0.3}})
    html = comparison.page(*sides, told)
    links = Links()
    links.feed(html)
    assert all(link.startswith(("data:", "#")) for link in links.loaded)
    data = embedded(html)
    assert [model["title"] for model in data["models"]] == ["A: a (seed 0), DPO", "B: b (seed 0), DPO"]
    assert len(data["cases"]) == QUESTIONS
    assert "+20.0<small>+10.0 to +30.0</small>" in html
    assert "<code>rl.steps</code>" in html
    assert "<th>self-similarity, cosine</th>" in html
    assert '<figure id="figure-differences">' in html
    assert "<b>naming</b>" not in html
    assert "partial" in html, "the stages of the recipe are not known here"


def test_two_runs_of_one_recipe_are_told_apart(sides: tuple[Side, Side], tmp_path: Path) -> None:
    found = replace(sides[0].found, name="in-car")
    assert comparison.folders(tmp_path / "a", tmp_path / "b") == ("a", "b")
    assert comparison.folders(tmp_path / "1" / "out", tmp_path / "2" / "out") == ("1/out", "2/out")
    assert comparison.folders(tmp_path / "a", tmp_path / "b" / ".." / "a") == ("a", "a")
    assert comparison.side(found, None, "A", "1/out").title == "A: 1/out (in-car, seed 0), DPO"


def test_right_of_zero_is_better_in_every_row() -> None:
    found = {"score": 6.0, "low": 2.0, "high": 9.0}
    rows = [("naming", found, "higher"), ("false refusals", found, "lower")]
    assert plots_changes.gains(rows) == [
        ("naming", found, "higher"),
        ("false refusals (less)", {"score": -6.0, "low": -9.0, "high": -2.0}, "higher"),
    ]


def test_unlike_questions_are_refused(sides: tuple[Side, Side]) -> None:
    first, second = sides
    with pytest.raises(UserError, match="no question alike"):
        comparison.compare(first, replace(second, rows=[row("of another seed", [True])]), lambda _: {})


def test_models_that_are_not_there_are_refused(sides: tuple[Side, Side], tmp_path: Path) -> None:
    found = sides[0].found
    with pytest.raises(UserError, match="has not evaluated 'dqo'; did you mean 'dpo'"):
        comparison.side(found, "dqo", "A", "a")
    assert comparison.side(found, "base", "A", "a").title == "A: a (seed 0), base"
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="nothing of it has been evaluated"):
        comparison.side(opened(tmp_path / "c", {}), None, "A", "c")
    (tmp_path / "a" / "evaluate_rl" / "answers.parquet").write_text("no parquet")
    with pytest.raises(
        UserError, match=r"evaluate_rl/answers.parquet is no whole Parquet file\); delete the folder evaluate_rl/"
    ):
        comparison.side(found, "rl", "A", "a")


def test_options_that_differ() -> None:
    assert comparison.options({"a": 1, "b": {"c": [1], "d": None}, "e": {}}, {"a": 1, "b": {"c": [2]}, "f": 3}) == [
        ("b.c", "[1]", "[2]"),
        ("b.d", "None", "–"),
        ("e", "{}", "–"),
        ("f", "–", "3"),
    ]
