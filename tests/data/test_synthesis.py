"""Synthesis: what is planned, what is dropped and counted, and that annotations come through word for word."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from PIL import Image

from open4ov.data import labels, synthesize
from open4ov.data.language import answers_in, written_in
from open4ov.data.question_types import misfit, plan, types_of
from open4ov.data.topics import Topic
from open4ov.mllm import Picture
from open4ov.mllm.answers import Pair, Pairs
from open4ov.sample import Sample

TREE = labels.load()
COUNT = Topic("Counting dogs", ("Nature", "Animals"), ("Counting", "Object counting"))
READ = Topic("Reading signs", ("Automotive", "Road signs"), ("Text recognition", "Word reading"))
NAME = Topic("Naming animals", ("Nature", "Animals"), ("Recognition", "Category"))
OFFERED = [(COUNT, 0.9), (READ, 0.5)]


def picture(scene: dict[str, Any] | None = None) -> Picture:
    return Picture("sha", lambda: Image.new("RGB", (4, 4)), scene)


def image(scene: dict[str, Any] | None = None, budget: int = 8) -> Sample:
    return Sample(id="i", source="s", task="image", images=["sha"], scene=scene, budget=budget)


def pair(**change: Any) -> dict[str, Any]:
    given = {
        "topic": COUNT.path,
        "task": "counting",
        "type": "counting",
        "language": "en",
        "question": "How many dogs?",
        "answer": "2",
        "aliases": [],
        "options": [],
        "response": "There are 2 dogs.",
    } | change
    return Pair.model_validate(given).model_dump()


def made(*pairs: dict[str, Any], **about: Any) -> tuple[list[Sample], Counter[str]]:
    dropped: Counter[str] = Counter()
    return synthesize.samples(image(**about), OFFERED, pairs, dropped), dropped


def test_types_come_from_the_ability_and_are_spread() -> None:
    assert types_of(COUNT, TREE) == ("counting", "choice", "yes_no")
    assert types_of(READ, TREE)[0] == "reading"
    planned = plan([COUNT, READ, NAME], TREE, 9, ["en", "zh"], turn=0)
    assert [one.topic for one in planned] == [COUNT.path, READ.path, NAME.path] * 3
    types = Counter(one.type for one in planned)
    assert set(types) == {"counting", "choice", "yes_no", "reading", "open"}
    assert max(types.values()) == 2
    assert Counter(one.language for one in planned) == {"en": 5, "zh": 4}
    assert plan([], TREE, 3, ["en"], 0) == []
    first = Counter(plan([COUNT], TREE, 1, ["en", "zh"], turn)[0] for turn in range(60))
    assert len(first) == 6  # over the images each type and language comes first
    assert set(first.values()) == {10}


def test_the_prompt_tells_plan_types_and_annotation() -> None:
    scene = {"caption": "two {dogs} 狗", "qa": [{"question": "Who barks?", "answer": "dogs"}]}
    text = synthesize.request(picture(scene), TREE, [COUNT, READ], 3, ["en"], 0).prompt.text
    assert f"1. topic: {COUNT.path} | type: " in text
    assert "two {dogs} 狗" in text
    assert "do not ask them again:\n- Who barks?" in text
    assert "annotation" not in synthesize.request(picture(), TREE, [COUNT], 3, ["en"], 0).prompt.text


def test_an_endpoint_must_fill_every_field() -> None:
    schema = Pairs.model_json_schema()["$defs"]["Pair"]
    assert set(schema["required"]) == set(schema["properties"]) == set(pair())
    assert "default" not in str(schema)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"topic": "A ~ B ~ C"}, "topic not offered"),
        ({"answer": " "}, "empty question, answer or response"),
        ({"response": ""}, "empty question, answer or response"),
        ({"question": "有几只狗？"}, "question in another language"),
        ({"response": "图中一共有两只正在草地上奔跑的狗"}, "response in another language"),
        ({"answer": "some"}, "the answer is no number"),
        ({"type": "yes_no"}, "the answer is neither yes nor no"),
        ({"type": "choice", "options": ["1", "3"]}, "the answer is none of the options"),
        ({"type": "choice", "options": ["2"]}, "a choice needs two or more different options"),
        ({"type": "open", "options": ["2", "3"]}, "options do not belong to open"),
    ],
)
def test_what_cannot_be_used_is_dropped_and_counted(change: dict[str, Any], reason: str) -> None:
    kept, dropped = made(pair(**change), pair(question="How many cats are there?", answer="two"))
    assert [sample.answer for sample in kept] == ["two"]
    assert dropped == {reason: 1}


@pytest.mark.parametrize(
    ("question", "answer", "same"),
    [
        ("how many dogs", "2", True),
        ("How many dogs?", "3", True),  # the very same question
        ("How many dogs are there in the image?", "2", True),
        ("How many red dogs?", "2", False),
        ("How many of the dogs?", "2", True),
        ("How many cats?", "2", False),
        ("How many dogs in row 1 of the image?", "2", False),  # numbers tell questions apart
        ("How many dogs do you see?", "3", False),
    ],
)
def test_near_duplicates_of_an_image_are_dropped(question: str, answer: str, same: bool) -> None:
    kept, dropped = made(pair(), pair(question=question, answer=answer, aliases=[]))
    assert len(kept) == (1 if same else 2)
    assert dropped == ({"near-duplicate question": 1} if same else {})


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [("这个标志是什么意思？", "这个标志表示什么意思？", True), ("图中有几只狗？", "图中一共有几只狗?", True),
     ("图中有几只狗？", "图中有几只猫？", False)],
)  # fmt: skip
def test_near_duplicates_in_chinese(first: str, second: str, same: bool) -> None:
    zh = {"type": "open", "language": "zh", "response": "两只", "answer": "两只"}
    kept, _ = made(pair(**zh, question=first), pair(**zh, question=second))
    assert len(kept) == (1 if same else 2)


def test_word_order_matters_where_answers_differ() -> None:
    left = {"type": "open", "question": "What is left of the dog?", "answer": "a cat"}
    kept, _ = made(pair(**left), pair(**{**left, "question": "What is the dog left of?", "answer": "a tree"}))
    assert len(kept) == 2


def test_no_more_than_the_budget_and_choices_show_their_options() -> None:
    kept, dropped = made(*(pair(question=f"How many {n} dogs?") for n in ("red", "blue", "green")), budget=2)
    assert len(kept) == 2
    assert dropped == {"beyond the budget": 1}
    (choice,), _ = made(pair(type="choice", options=["1", "2"]))
    assert choice.messages[0].text == "How many dogs?\nA. 1\nB. 2"
    assert choice.extra == {"type": "choice", "options": ["1", "2"]}
    assert choice.lineage == ["i"]


def test_annotated_questions_come_through_word_for_word_and_linked() -> None:
    scene = {
        "box": [1, 2, 3, 4],
        "qa": [
            {"question": " What does the  sign say? ", "answer": "STOP", "task": "reading"},
            {"question": "How many dogs?", "answer": "2", "aliases": ["two"], "extra": 1},
            {"question": ""},
            "broken",
            {"question": "有几只狗?", "answer": 2},
        ],
    }
    kept, dropped = made(pair(answer="two"), pair(question="how many dogs", answer="5"), scene=scene, budget=1)
    by = {sample.extra["annotation"]["qa"]: sample for sample in kept}
    assert set(by) == {0, 1, 4}
    assert by[1].extra["type"] == "counting"  # the model asked the same and agrees: linked, not asked twice
    assert by[0].messages[0].text == " What does the  sign say? "
    assert (by[0].answer, by[0].topics, by[0].messages[1].text) == ("STOP", [READ.path], "STOP")
    assert (by[4].language, by[4].answer) == ("zh", "2")
    assert all(sample.scene == scene for sample in kept)
    unusable = {"annotated: no question": 1, "annotated: no object with a question and an answer": 1}
    assert dropped == {"near-duplicate question": 1, **unusable}
    kept, dropped = made(pair(answer="5"), scene=scene)
    assert dropped == {"contradicts the annotation": 1, **unusable}
    assert {sample.answer for sample in kept} == {"STOP", "2"}


def test_no_annotated_question_is_lost_or_altered_silently() -> None:
    qa: list[Any] = [
        {"question": "How many dogs?", "answer": 0},
        {"question": "Is it open?", "answer": False},
        {"question": "门开着吗？", "answer": True},
        {"question": "How far is it?", "answer": 2.5, "response": 3, "aliases": [2.50, None, "far"]},
        {"question": "Combien de chiens?", "answer": "deux", "language": "fr"},
        {"question": "How many cats?", "answer": None},
        {"question": "How many cows?"},
        {"question": "Which?", "answer": ["a", "b"]},
        {"question": "How much?", "answer": float("nan")},
        {"answer": "42"},
        {"question": "How many dogs?", "answer": 0},
    ]
    kept, dropped = made(scene={"qa": qa})
    told = {sample.extra["annotation"]["qa"]: (sample.answer, sample.aliases, sample.messages[1].text)
            for sample in kept}  # fmt: skip
    assert told == {
        0: ("0", [], "0"),
        1: ("no", ["否", "false"], "no"),
        2: ("是", ["yes", "true"], "是"),
        3: ("2.5", ["2.5", "far"], "3"),
    }
    assert dropped == {
        "annotated: in a language other than en and zh": 1,
        "annotated: no answer, or one that is neither text, number, true nor false": 4,
        "annotated: no question": 1,
        "annotated: a question that is there already": 1,
    }
    assert sum(dropped.values()) + len(kept) == len(qa)
    assert made(scene={"qa": {"question": "q"}})[1] == {
        "annotated: no answer, or one that is neither text, number, true nor false": 1
    }
    assert made(scene={"qa": "what?"})[1] == {"annotated: no object with a question and an answer": 1}
    assert made(scene={})[1] == {}


def test_the_language_of_an_image() -> None:
    assert synthesize.languages_of(image(), ["en", "zh"], per_image=False) == ["en", "zh"]
    assert synthesize.languages_of(image({"language": "zh"}), ["en", "zh"], per_image=True) == ["zh"]
    assert synthesize.languages_of(image({"language": "fr"}), ["en"], per_image=True) == ["en"]
    drawn = Counter(
        synthesize.languages_of(image().model_copy(update={"images": [str(n)]}), ["en", "zh"], True)[0]
        for n in range(200)
    )
    assert 70 < drawn["en"] < 130


@pytest.mark.parametrize(
    ("text", "language"),
    [("How many?", "en"), ("有几个？", "zh"), ("42", None), ("", None), ("STOP 是什么意思？", "zh"),
     ("What does 停 mean?", "en")],
)  # fmt: skip
def test_texts_are_told_apart_by_script(text: str, language: str | None) -> None:
    assert written_in(text) == language


def test_what_is_quoted_from_an_image_may_be_in_its_language() -> None:
    assert answers_in("STOP", "zh")
    assert answers_in("停车", "en")
    assert not answers_in("The sign says that you must stop here.", "zh")
    assert not answers_in("这个标志表示必须在这里停车让行", "en")


@pytest.mark.parametrize(
    ("kind", "answer", "fits"),
    [("counting", "12", True), ("counting", "Three", True), ("counting", "三个", True), ("counting", "many", False),
     ("yes_no", "Yes.", True), ("yes_no", "是", True), ("yes_no", "maybe", False), ("open", "anything", True),
     ("reading", "STOP", True)],
)  # fmt: skip
def test_answers_fit_their_types(kind: str, answer: str, fits: bool) -> None:
    assert (misfit(kind, answer, []) is None) == fits
