"""What the modality-bias suites change about a question, and what they leave."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from open4ov.evaluate import bias, bias_chinese, items
from open4ov.evaluate.items import Question

COUNT = 12


@pytest.fixture(scope="module")
def images() -> list[Question]:
    return [question for task in ("naming", "colour") for question in items.general(task, COUNT, 3)]


@pytest.fixture(scope="module")
def texts() -> list[Question]:
    return items.general("instruction", COUNT, 3)


def image_parts(question: Question) -> int:
    return sum(part.type == "image" for message in question.messages for part in message.content)


def test_missing_image_keeps_the_words_only(images: list[Question]) -> None:
    asked = bias.missing_image(images, 10, 0)
    words = {question.text for question in images}
    assert len(asked) == 10
    assert {question.task for question in asked} == {"naming", "colour"}
    assert all(q.text in words and not q.images and image_parts(q) == 0 and q.rule == "refusal" for q in asked)


def test_mismatch_adds_a_picture_to_a_text_question(texts: list[Question], images: list[Question]) -> None:
    asked = bias.mismatch(texts, images, 10, 0)
    known = {question.text: question.answers for question in texts}
    assert len(asked) == 10
    assert all(known[q.text] == q.answers and len(q.images) == 1 == image_parts(q) for q in asked)


def test_context_puts_another_exchange_before(texts: list[Question], images: list[Question]) -> None:
    asked = bias.context(images, texts, 10, 0)
    known = {f"context/{question.id}": question for question in images}
    for question in asked:
        assert [message.role for message in question.messages] == ["user", "assistant", "user"]
        original = known[question.id]
        assert (question.text, question.answers, question.rule) == (original.text, original.answers, original.rule)
        assert question.images == original.images


def test_absent_objects_are_absent() -> None:
    asked = bias.absent(items.general("colour", 40, 3), 20, 0)
    assert len(asked) == 20
    for question in asked:
        assert not any(thing in question.text for thing in question.objects)
        assert question.rule == "denial"


def test_ids_are_distinct_and_draws_are_seeded(images: list[Question]) -> None:
    first = bias.missing_image(images, 8, 0)
    assert len({question.id for question in first}) == 8
    assert [q.id for q in bias.missing_image(images, 8, 0)] == [q.id for q in first]
    assert [q.id for q in bias.missing_image(images, 8, 1)] != [q.id for q in first]


def test_several_turns_keep_the_question_and_move_its_picture(images: list[Question], texts: list[Question]) -> None:
    asked = bias.context_turns(images, texts, 10, 0)
    known = {f"context_turns/{question.id}": question for question in images}
    assert len({question.id for question in asked}) == 10
    for question in asked:
        original = known[question.id]
        assert [m.role for m in question.messages] == ["user", "assistant"] * bias.TURNS + ["user"]
        assert (question.text, question.answers, question.rule) == (original.text, original.answers, original.rule)
        assert question.images[-1] is original.images[-1]
        assert len(question.images) == 2 == image_parts(question)
        assert [part.index for part in question.messages[-1].content if part.type == "image"] == [1]
        before = [part.index for m in question.messages[:-1] for part in m.content if part.type == "image"]
        assert before == [0]
        assert len({m.text for m in question.messages[:-1] if m.role == "user"}) == bias.TURNS


def test_chinese_suites_are_all_chinese() -> None:
    asked = bias_chinese.questions(12, 3)
    counted = Counter(question.suite for question in asked)
    assert counted == dict.fromkeys(("missing_image_zh", "mismatch_zh", "context_zh", "absent_zh"), 12)
    assert len({question.id for question in asked}) == 48
    for question in asked:
        assert question.language == "zh"
        for message in question.messages:
            if message.role == "user":
                assert any("\u3400" <= letter <= "\u9fff" for letter in message.text), message.text
        assert image_parts(question) == len(question.images) == (0 if question.suite == "missing_image_zh" else 1)
        if question.suite == "absent_zh":
            assert not any(thing in question.text for thing in question.objects)


@pytest.mark.parametrize("seed", [0, 1])
def test_chinese_sums_are_right(seed: int) -> None:
    asked = bias_chinese.texts(60, seed)
    assert len(asked) == 60
    for question in asked:
        a, sign, b = re.fullmatch(r"(\d+)(加|减)(\d+)等于多少？", question.text).groups()  # pyright: ignore
        assert question.answers == (str(int(a) + int(b) if sign == "加" else int(a) - int(b)),)
        assert int(question.answers[0]) >= 0
