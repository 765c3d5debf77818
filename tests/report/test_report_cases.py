"""What the gallery is given, and which cases are set side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_report_changes import row

from open4ov.report import cases, paired_cases
from open4ov.report.answers import Row
from open4ov.report.pictures import SIDE, Pictures
from open4ov.store import ImageStore


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(ImageStore(tmp_path / "image-store"))


@pytest.mark.parametrize(
    ("rule", "response", "right", "wanted"),
    [
        ("refusal", "There is no picture.", True, "refused"),
        ("refusal", "a cat", False, "hallucinated"),
        ("denial", "There is no cat in it.", True, "refused"),
        ("denial", "blue", False, "hallucinated"),
        ("exact", "I cannot see a picture", False, "refused"),
        ("exact", "there is no cat", False, ""),
        ("exact", "a dog", False, ""),
        ("exact", "a cat", True, ""),
    ],
)
def test_flags(rule: str, response: str, right: bool, wanted: str) -> None:
    assert cases.flag(row("1", [right], rule=rule), response, right) == wanted


def test_every_text_stands_once(pictures: Pictures) -> None:
    sha = pictures.store.put(Image.new("RGB", (9, 9), "red"))
    base = [row("1", [True], pictures=[sha]), row("2", [False], suite="charts"), row("3", [False])]
    final = [row("1", [False], pictures=[sha]), row("2", [False], suite="charts"), row("3", [True])]
    told = cases.gallery({"base": base, "rl": final}, {"rl": "RL"}, {"naming": "names"}, pictures)
    assert told["models"] == [{"name": "base", "title": "base"}, {"name": "rl", "title": "RL"}]
    assert told["suites"] == {"naming": "names", "charts": "charts"}
    assert sorted(told["texts"]) == ["", "a", "b", "what?"]
    assert list(told["pictures"]) == [sha]
    kept = [case["kept"] for case in told["cases"]]
    assert kept == [True, True, False], "charts has no pictures at all; of naming only the first was kept"
    right = [[answer[0][1] for answer in case["answers"]] for case in told["cases"]]
    assert right == [[1, 0], [0, 0], [0, 1]]


def test_beyond_the_limit_disagreements_come_first(pictures: Pictures) -> None:
    base = [row(str(number), [False], question=f"question {number}") for number in range(40)]
    final = [row(str(number), [number == 33], question=f"question {number}") for number in range(40)]
    told = cases.gallery({"base": base, "rl": final}, {}, {}, pictures, limit=1000)
    asked = [told["texts"][case["question"]] for case in told["cases"]]
    assert 1 < len(asked) < 10
    assert asked[-1] == "question 33"
    assert asked[:-1] == [f"question {number}" for number in range(len(asked) - 1)]
    assert told["left_out"] == 40 - len(asked)


def asked(number: int, verdicts: list[bool], pictures: Pictures, **more: Any) -> list[Row]:
    """A question with a picture of its own, and whether each model is right."""
    sha = pictures.store.put(Image.new("RGB", (9, 9), (number, 50, 90)))
    return [row(str(number), [ok], question=f"q{number}", pictures=[sha], **more) for ok in verdicts]


def pictured(told: dict[str, Any]) -> list[str]:
    return [told["texts"][case["question"]] for case in told["cases"] if case["kept"]]


def test_pictures_are_those_of_the_questions_that_tell_most(pictures: Pictures) -> None:
    """Of 25 questions the last five were fixed, broken, made up, or changed on the way; the others tell nothing."""
    same = [asked(number, [True] * 3, pictures) for number in range(20)]
    told = [
        asked(20, [True, False, True], pictures),
        asked(21, [True, True, True], pictures, rule="denial"),
        asked(22, [False, False, False], pictures, rule="denial"),  # says "b" of what is not there
        asked(23, [True, True, False], pictures),
        asked(24, [False, True, True], pictures),
    ]
    models = dict(zip(("base", "rl", "dpo"), map(list, zip(*same, *told, strict=True)), strict=True))
    whole = cases.gallery(models, {}, {}, pictures)
    assert pictured(whole) == [*(f"q{number}" for number in range(cases.PLAIN)), "q20", "q22", "q23", "q24"]
    assert len(whole["cases"]) == 25, "the questions themselves are all there"
    assert whole["cases"][-6]["pictures"] == [""]
    size = max(len(uri) for uri in whole["pictures"].values())
    narrow = Pictures(pictures.store, limit=3 * size)
    assert pictured(cases.gallery(models, {}, {}, narrow)) == ["q22", "q23", "q24"]
    two = Pictures(pictures.store, limit=2 * size)
    assert pictured(cases.gallery(models, {}, {}, two)) == ["q23", "q24"], "fixed and broken before all others"


def test_a_picture_that_one_evaluation_has_kept_is_enough(pictures: Pictures) -> None:
    """That of the base is of an older version, which kept the first ones alone."""
    (after,) = asked(1, [True], pictures)
    before = row("1", [False], question="q1")
    told = cases.gallery({"base": [before], "rl": [after]}, {}, {}, pictures)
    assert pictured(told) == ["q1"]
    pairs = [(row("1", [False], suite="absent"), replace(after, suite="absent"))]
    (shown,) = [one for one in paired_cases.shown(pairs, [], pictures) if one.title.startswith("Something that is not")]
    assert shown.cases[0]["pictures"] == [pictures.uri(after.pictures[0])]


def test_pictures_that_are_gone_changed_or_too_many(pictures: Pictures) -> None:
    sha = pictures.store.put(Image.new("RGB", (9, 9), "red"))
    other = pictures.store.put(Image.new("RGB", (9, 9), "blue"))
    gone = "0" * 64
    assert pictures.uri(gone) is None
    pictures.store.path(other).write_bytes(b"not what it was")
    assert pictures.uri(other) is None
    assert pictures.missing == {gone, other}
    pictures.limit = 0
    assert pictures.uri(sha) is None
    assert pictures.left_out == {sha}


def test_large_pictures_are_made_small(pictures: Pictures) -> None:
    noise = Image.effect_noise((900, 600), 90).convert("RGB")
    uri = pictures.uri(pictures.store.put(noise))
    assert uri is not None
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 900 * 600
    assert SIDE < 900


def test_cases_of_both_directions_with_their_numbers(pictures: Pictures) -> None:
    def said(number: int, *, base: bool, final: bool, suite: str = "in_car_en") -> tuple[Row, Row]:
        first, second = (row(str(number), [ok], suite=suite, question=f"q{number}") for ok in (base, final))
        return first, second

    pairs = [said(n, base=False, final=True) for n in range(5)]
    pairs += [said(n, base=True, final=False) for n in range(5, 8)] + [said(8, base=True, final=True)]
    pairs += [said(9, base=False, final=False, suite="absent")]
    shown = {one.title: one for one in paired_cases.shown(pairs, ["in_car_en"], pictures)}
    vertical = shown["Knowledge of the vertical"]
    assert (vertical.asked, vertical.better, vertical.worse) == (9, 5, 3)
    assert [case["question"] for case in vertical.cases] == ["q0", "q1", "q5"]
    assert shown["Something that is not in the picture"].cases == []
    assert "Chinese" not in shown


def test_different_and_shorter_responses(pictures: Pictures) -> None:
    same = row("1", [True] * 3, suite="reasoning", responses=["a", "a", "a"], tokens=[3, 3, 3])
    three = row("1", [True] * 3, suite="reasoning", responses=["a", "b", "c"], tokens=[3, 3, 3])
    long, short = row("2", [True], tokens=[50]), row("2", [True], tokens=[7])
    shown = {one.title: one for one in paired_cases.shown([(same, three), (long, short)], [], pictures)}
    (case,) = shown["Different responses"].cases
    assert [[(one["text"], one["times"]) for one in given] for given in case["answers"]] == [
        [("a", 3)],
        [("a", 1), ("b", 1), ("c", 1)],
    ]
    assert (shown["Shorter responses"].better, shown["Shorter responses"].worse) == (1, 0)
    back = {one.title: one for one in paired_cases.shown([(three, same), (short, long)], [], pictures)}
    assert (back["Different responses"].better, back["Different responses"].worse) == (0, 1)
    assert (back["Shorter responses"].better, back["Shorter responses"].worse) == (0, 1)
