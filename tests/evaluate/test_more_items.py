"""The built-in sets that only `open4ov eval` asks: answers follow from the pictures, references are right by their own
rules, and every photograph names its licence."""

from __future__ import annotations

from collections import Counter

import pytest

from open4ov import assets
from open4ov.evaluate import built_in, more_items
from open4ov.evaluate.item import Item
from open4ov.evaluate.scoring import Reference, score


@pytest.mark.parametrize("name", more_items.SUITES)
def test_references_are_right_by_their_own_rules(name: str) -> None:
    questions = more_items.SUITES[name](80, 3)
    assert len({question.id for question in questions}) == len(questions)
    for question in questions:
        for answer in question.answers:
            if question.rule == "number" and not answer.isdecimal():
                continue
            assert score(question.rule, answer, Reference(question.answers, {})).value == 1, (question.text, answer)


@pytest.mark.parametrize("name", ["several", "clips", "reading_zh"])
def test_drawn_sets_are_a_function_of_count_and_seed(name: str) -> None:
    make = more_items.SUITES[name]
    one, two, other = make(6, 1), make(6, 1), make(6, 2)
    shown = [[image.tobytes() for image in each.images] for each in one]
    assert shown == [[image.tobytes() for image in each.images] for each in two]
    assert [each.text for each in one] == [each.text for each in two]
    assert shown != [[image.tobytes() for image in each.images] for each in other]


def test_several_shows_three_or_four_pictures_and_its_answers_vary() -> None:
    questions = more_items.several(60, 0)
    assert {len(each.images) for each in questions} == {3, 4}
    assert len(Counter(each.answers[0] for each in questions)) >= 5


def test_clips_move_where_they_say() -> None:
    """The middle of the ink moves along the answer's axis, in its direction."""
    for each in more_items.clips(40, 0):
        assert len(each.images) == more_items.FRAMES
        part = each.messages[0].content[0]
        assert part.type == "video"
        assert part.times == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
        if not each.text.startswith("Which way"):
            assert each.answers[0] in each.text
            continue
        middles = []
        for frame in (each.images[0], each.images[-1]):
            ground = frame.getpixel((0, 0))
            ink = [(x, y) for x in range(96) for y in range(96) if frame.getpixel((x, y)) != ground]
            middles.append([sum(axis) / len(ink) for axis in zip(*ink, strict=True)])
        dx, dy = (after - before for before, after in zip(*middles, strict=True))
        said = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
        assert said == each.answers[0]


def test_photographs_are_labelled_and_licensed() -> None:
    entries = more_items.labelled()
    questions = more_items.photographs(1000, 0)
    assert len(questions) == sum(len(entry["questions"]) for entry in entries) >= 40
    assert any(each.language == "zh" for each in questions)
    folder = assets.ROOT / "photographs"
    assert {entry["file"] for entry in entries} == {path.name for path in folder.glob("*.jpg")}
    assert all(entry["licence"] and entry["origin"] for entry in entries)
    told = (folder / "LICENSES.md").read_text("utf-8")
    assert all(entry["file"].removesuffix(".jpg") in told for entry in entries)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2**20
    assert len({each.images[0].tobytes() for each in more_items.photographs(len(entries), 0)}) == len(entries)


def test_groups_hold_every_built_in_set_once() -> None:
    assert built_in.expand(["general", "general", "photographs", "unknown"])[-1] == "photographs"
    assert len(built_in.expand(list(built_in.MEMBERS))) == len(built_in.NAMES)
    assert set(built_in.MEMBERS["bias"]) >= {"missing_image", "mismatch", "context", "absent"}


def test_the_same_questions_as_a_run_asks() -> None:
    from open4ov.evaluate import items, suites

    asked = [each for each in built_in.BuiltIn("colour", 4, 8, 0).items() if isinstance(each, Item)]
    assert [each.id for each in asked] == [each.id for each in items.general("colour", 4, 0)]
    assert [each.answers for each in asked] == [each.answers for each in items.general("colour", 4, 0)]
    everything = suites.questions(2, 2, 0)
    for name in ("reasoning_greedy", "reasoning", "absent", "in_car_zh"):
        asked = [each for each in built_in.BuiltIn(name, 2, 8, 0).items() if isinstance(each, Item)]
        run = [each for each in everything if each.suite == name]
        assert [(each.messages, each.answers) for each in asked] == [(each.messages, each.answers) for each in run]
