"""Two evaluations side by side: pairs, tests, adjustment, and what is not compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from eval_files import Says, mcq, tsv

from open4ov.errors import UserError
from open4ov.evaluate.benchmarks import registry
from open4ov.evaluate.file_suite import FileSuite
from open4ov.evaluate.item import Item
from open4ov.evaluate.paired import compare, is_evaluation, to_text
from open4ov.evaluate.set_eval import Plan, evaluate
from open4ov.evaluate.statistics import holm, mcnemar


def right(item: Item) -> str:
    return item.answers[0]


def plan(tmp_path: Path, names: str = "xy", prompt: str = "mcq", count: int = 12) -> Plan:
    known = registry()
    entry = known.of_type("own", "mcq").model_copy(update={"cluster": "item"})
    return Plan([FileSuite(n, entry, tsv(tmp_path / f"{n}.tsv", mcq(count)), known.prompt(prompt)) for n in names])


def test_differences_by_hand(tmp_path: Path) -> None:
    """One is always right; the other says A, and is right in every second of twelve."""
    asked = plan(tmp_path)
    evaluate(asked, Says(right, "one"), tmp_path / "one")
    evaluate(asked, Says(lambda _: "A", "two"), tmp_path / "two")
    found = compare(tmp_path / "one", tmp_path / "two")
    assert (found.first, found.second) == ("one", "two")
    for each in found.differences:
        assert (each.questions, each.only, each.first, each.second) == (12, 0, 1.0, 0.5)
        assert each.difference == pytest.approx(0.5)
        assert each.low < 0.5 < each.high
        assert (each.p, each.test) == (mcnemar(6, 0), "McNemar, exact")
        assert each.adjusted == pytest.approx(holm({"x": each.p, "y": each.p})["x"])
    text = to_text(found)
    assert "| x | 12 | 100.0 | 50.0 | +50.0 |" in text
    assert "| set | questions | first | second | first minus second |" in text
    assert found.data()["direction"] == "first minus second"
    assert "2 sets are compared" in text
    back = compare(tmp_path / "two", tmp_path / "one")
    assert back.differences[0].difference == pytest.approx(-0.5)


def test_items_about_one_picture_are_tested_together(tmp_path: Path) -> None:
    known = registry()
    path = tsv(tmp_path / "x.tsv", mcq(8))
    asked = Plan([FileSuite("x", known.of_type("own", "mcq"), path, known.prompt("mcq"))])
    evaluate(asked, Says(right, "one"), tmp_path / "one")
    evaluate(asked, Says(lambda _: "C", "two"), tmp_path / "two")
    (each,) = compare(tmp_path / "one", tmp_path / "two").differences
    assert each.test == "sign flips of clusters"
    assert each.p == pytest.approx(2 / 2**4)  # four pictures, not eight items


def test_only_questions_of_both_are_compared(tmp_path: Path) -> None:
    asked = plan(tmp_path, "x")
    evaluate(asked, Says(right, "one"), tmp_path / "one")
    evaluate(asked, Says(right, "two", stops=5), tmp_path / "two")
    found = compare(tmp_path / "one", tmp_path / "two")
    assert (found.differences[0].questions, found.differences[0].only) == (5, 7)
    assert "7 questions have a score in one evaluation only" in to_text(found)


def test_other_words_are_not_compared(tmp_path: Path) -> None:
    evaluate(plan(tmp_path, "xy"), Says(right, "one"), tmp_path / "one")
    evaluate(plan(tmp_path, "xz", "mcq_zh"), Says(right, "two"), tmp_path / "two")
    with pytest.raises(UserError, match=r"x: prompt was another.*y: only the first.*z: only the second"):
        compare(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("damage", ["gone", "half", "older", "scores"])
def test_a_damaged_evaluation_is_told(tmp_path: Path, damage: str) -> None:
    evaluate(plan(tmp_path, "x"), Says(right, "one"), tmp_path / "one")
    evaluate(plan(tmp_path, "x"), Says(right, "two"), tmp_path / "two")
    file = tmp_path / "two" / "evaluation.json"
    message = "missing or damaged"
    if damage == "gone":
        file.unlink()
    elif damage == "half":
        file.write_text(file.read_text()[:50])
    elif damage == "older":
        file.write_text(json.dumps({"schema": "open4ov.evaluation/0"}))
        message = "another version"
    else:
        scores = tmp_path / "two" / "scores.jsonl"
        scores.write_text(scores.read_text() + '{"suite": 1}\n')
        message = r"scores\.jsonl, line 13"
    with pytest.raises(UserError, match=message):
        compare(tmp_path / "one", tmp_path / "two")
    assert is_evaluation(tmp_path / "one")
    assert not is_evaluation(tmp_path)
