"""What a stage gave and took, against small cases worked out by hand."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from open4ov.report import changes
from open4ov.report.answers import Row
from open4ov.report.table import build


def row(name: str, right: list[bool], **facts: Any) -> Row:
    about: dict[str, Any] = {
        "suite": "naming", "language": "en", "question": "what?", "earlier": "", "answers": ["a"], "rule": "exact",
        "responses": ["a" if ok else "b" for ok in right], "right": right, "tokens": [2] * len(right), "pictures": [],
    }  # fmt: skip
    return Row(**{"id": name, **about, **facts})


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ([1, 1], "kept"), ([1, 0], "forgotten"), ([0, 1], "learned"), ([0, 0], "never"), ([1, 0, 1], "regained"),
        ([1, 1, 1], "kept"), ([0, 1, 0], "lost"), ([0, 1, 1], "learned"), ([1, 0, 0], "forgotten"),
        ([1, 1, 0, 1], "regained"), ([0, 0, 1, 0], "lost"),
    ],
)  # fmt: skip
def test_fate(known: list[int], wanted: str) -> None:
    assert changes.fate([bool(one) for one in known]) == wanted


def test_fates_add_up_to_the_questions() -> None:
    every = list(product([True, False], repeat=3))
    answers = {
        f"m{place}": [row(str(number), [known[place]]) for number, known in enumerate(every)] for place in range(3)
    }
    found = changes.fates(answers, {"general": ["naming"], "nothing of it": ["charts"]})
    assert list(found) == ["general"]
    first, last = found["general"]
    assert first == {"questions": 8, "kept": 2, "forgotten": 2, "learned": 2, "never": 2, "regained": 0, "lost": 0}
    assert last == {"questions": 8, "kept": 1, "regained": 1, "forgotten": 2, "learned": 2, "lost": 1, "never": 1}


def test_several_responses_count_from_half_of_them_on() -> None:
    assert row("a", [True, False]).is_right
    assert not row("a", [True, False, False]).is_right


def test_a_stage_is_compared_with_the_one_before_it() -> None:
    naming = {"title": "naming", "about": "", "unit": "share", "better": "higher", "items": 3, "score": 0.5}
    length = {**naming, "title": "length", "unit": "tokens", "better": "lower"}

    def result(**differences: Any) -> dict[str, Any]:
        suites = {"naming": {**naming, "low": 0.4, "high": 0.6}, "length": {**length, "low": 0.4, "high": 0.6}}
        return {
            "schema": 1, "confidence": 0.95, "items": 3, "samples": 1, "seed": 0, "suites": suites, "groups": {},
            "lengths": {}, "differences": differences,
        }  # fmt: skip

    clear = {"score": 0.2, "low": 0.1, "high": 0.3}
    results = {
        "base": result(),
        "rl": result(base={"naming": clear, "length": clear}),
        "dpo": result(base={"naming": clear}, rl={"naming": {"score": 0.1, "low": -0.1, "high": 0.3}}),
    }
    answers = {
        "base": [row("1", [False]), row("2", [True]), row("3", [False])],
        "rl": [row("1", [True]), row("2", [False]), row("3", [True])],
    }
    naming_row, length_row = changes.stages(build(results), results, answers)
    assert naming_row["changes"][0] == {**clear, "verdict": "up", "gained": 2, "lost": 1}
    assert naming_row["changes"][1]["verdict"] == ""
    assert naming_row["changes"][1]["gained"] is None, "the last model's answers are not there"
    assert length_row["changes"][0]["verdict"] == "down", "longer is worse"
    assert length_row["changes"][1] is None, "not measured against the model before"
