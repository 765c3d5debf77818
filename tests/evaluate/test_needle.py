"""Needles are found by who remembers, and only by depth by who forgets."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from open4ov.answers import normalise
from open4ov.engine.request import Completion, Request
from open4ov.errors import UserError
from open4ov.evaluate import needle
from open4ov.sample import Message

WORDS = re.compile(r"code word of the (.+?) is (.+?)\.|记住：(.+?)的暗号是(.+?)。")


class Reader:
    """Answers from the last `memory` messages of a conversation, by reading them."""

    def __init__(self, memory: int = 10_000) -> None:
        self.memory = memory

    def generate(self, requests: Sequence[Request], progress: object = None) -> list[list[Completion]]:
        return [[Completion(self.answer(r), [], [], "stop", 0)] for r in requests]

    def answer(self, request: Request) -> str:
        *before, last = request.messages
        for message in before[-self.memory :]:
            for name, word, name_zh, word_zh in WORDS.findall(message.text):
                if (name or name_zh) in last.text:
                    return word or word_zh
        return "nothing"


def size(messages: list[Message]) -> int:
    return sum(5 + len(m.text) // 3 for m in messages)


def test_texts_have_the_length_and_the_depth_that_were_wanted() -> None:
    probes = needle.texts(size, [300, 600], [0, 0.5, 1], ["en", "zh"], 3, seed=0)
    assert len(probes) == 2 * 3 * 2 * 3
    for probe in probes:
        assert 0.8 * probe.length < size(probe.messages) <= probe.length
        assert abs(probe.hit - probe.depth) < 0.2
        assert probe.messages[-1].role == "user"
        holding = [m for m in probe.messages if normalise(probe.answer) in normalise(m.text)]
        assert len(holding) == 1, "the answer is told once"
        assert sum(len(WORDS.findall(m.text)) for m in probe.messages) == 1 + needle.DISTRACTORS


def test_the_haystack_grows_to_the_length_and_a_length_that_cannot_be_is_refused() -> None:
    (probe,) = needle.texts(size, [30_000], [0.5], ["en"], 1, seed=0)
    assert 29_000 < size(probe.messages) == probe.size <= 30_000
    with pytest.raises(UserError, match="length 40: the facts and the question alone are"):
        needle.texts(size, [40], [0.5], ["en"], 1, seed=0)


def test_a_short_haystack_is_drawn_until_the_depth_is_near() -> None:
    probes = needle.texts(size, [256], [0.25, 0.5, 0.75], ["en", "zh"], 6, seed=0)
    assert all(abs(probe.hit - probe.depth) < 0.06 for probe in probes)


def test_who_remembers_finds_all_and_who_forgets_finds_the_last() -> None:
    probes = needle.texts(size, [600], [0, 0.5, 1], ["en", "zh"], 5, seed=1)
    told = needle.table(needle.ask(Reader(), probes))
    assert all(row[d] == (5, 5) for row in told.values() for d in row)
    forgetful = needle.table(needle.ask(Reader(memory=8), probes))
    for row in forgetful.values():
        assert row[0] == (0, 5)
        assert row[1] == (5, 5)
    assert "| text | en | 600 tokens | 1.00 | 1.00 | 1.00 | 1.00 (15) |" in needle.markdown(
        needle.ask(Reader(), probes)
    )


def test_pictures_are_asked_about_by_number_and_not_twice() -> None:
    probes = needle.pictures([2, 4], [0, 0.5, 1], ["en", "zh"], 2, seed=0)
    assert {(p.language, p.length, p.depth) for p in probes} == {
        (lang, n, d) for lang in ("en", "zh") for n in (2, 4) for d in (0, 0.5, 1)
    }
    for probe in probes:
        shown = [part.index for m in probe.messages for part in m.content if part.type == "image"]
        assert shown == list(range(probe.length)) == list(range(len(probe.images)))
        at = min(int(probe.depth * probe.length), probe.length - 1)
        assert str(at + 1) in probe.messages[-1].text
        assert normalise(probe.answer) not in normalise(" ".join(m.text for m in probe.messages))
    again = needle.pictures([2, 4], [0, 0.5, 1], ["en", "zh"], 2, seed=0)
    assert [p.messages for p in probes] == [p.messages for p in again]
