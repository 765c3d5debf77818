"""The one interface: prompts, roles, order, and what happens to answers that do not fit."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from PIL import Image

from open4ov.errors import UserError
from open4ov.mllm import ROLES, AnswerError, Asker, Picture, Prompt, ProviderError, Request
from open4ov.mllm.answers import Density, Judgement
from open4ov.recipe import DataSection, ProviderSection


class Scripted:
    """A provider written for the test: answers by what the prompt asks, and counts how many ask at once."""

    def __init__(self, name: str, concurrency: int = 1) -> None:
        self.name, self.concurrency = name, concurrency
        self.open = self.most = 0
        self.lock = threading.Lock()

    def identity(self, role: str) -> str:
        return self.name

    def answer(self, request: Request) -> dict[str, Any]:
        with self.lock:
            self.open += 1
            self.most = max(self.most, self.open)
        number = int(request.prompt.values["question"])
        time.sleep(0.001 * (7 - number % 7))  # later questions often answer first
        with self.lock:
            self.open -= 1
        if number == 5:
            raise AnswerError("no idea")
        if number == 6:
            return {"score": 2, "reason": "not a vote"}
        return {"score": number % 2, "reason": f"{self.name} {number}"}


def judgement(number: int, role: str = "judge_1") -> Request:
    values = {"topic": "t", "question": str(number), "answer": "a"}
    return Request(role, Prompt("judge", values), (), Judgement)


@pytest.mark.parametrize("concurrency", [1, 6])
def test_answers_come_in_the_order_of_the_requests(concurrency: int) -> None:
    provider = Scripted("s", concurrency)
    asker = Asker(DataSection(), {"default": provider})
    seen: list[tuple[int, int]] = []
    answers = asker.ask_many([judgement(n) for n in range(40)], lambda done, total: seen.append((done, total)))
    for number, answer in enumerate(answers):
        if number in (5, 6):
            assert isinstance(answer, AnswerError)
        else:
            assert answer == {"score": number % 2, "reason": f"s {number}"}
    assert seen == [(n + 1, 40) for n in range(40)]
    assert 1 <= provider.most <= concurrency


def test_each_provider_keeps_to_its_own_concurrency() -> None:
    few, many = Scripted("few", 2), Scripted("many", 9)
    asker = Asker(DataSection(roles={"judge_2": "few"}), {"default": many, "few": few})
    answers = asker.ask_many([judgement(n, f"judge_{1 + n % 2}") for n in range(60)])
    assert [a["reason"].split()[0] for a in answers if isinstance(a, dict)][:4] == ["many", "few", "many", "few"]
    assert few.most <= 2 < many.most <= 9


def test_a_provider_that_cannot_work_stops_the_whole() -> None:
    class Down(Scripted):
        def answer(self, request: Request) -> dict[str, Any]:
            raise ProviderError("down")

    with pytest.raises(ProviderError, match="down"):
        Asker(DataSection(), {"default": Down("d", 4)}).ask_many([judgement(n) for n in range(9)])


def test_an_answer_outside_its_schema_is_refused_and_names_who_gave_it() -> None:
    with pytest.raises(AnswerError, match=r"judge_1:s.*score"):
        Asker(DataSection(), {"default": Scripted("s")}).ask("judge_1", judgement(6).prompt, (), Judgement)


def test_density_scores_outside_zero_and_one_are_refused() -> None:
    class Wild(Scripted):
        def answer(self, request: Request) -> dict[str, Any]:
            return {"subjects": 1.2, "space": 0, "ocr": 0, "knowledge": 0}

    with pytest.raises(AnswerError, match="subjects"):
        Asker(DataSection(), {"default": Wild("w")}).ask("density", Prompt("density", {}), (), Density)


def test_values_are_never_templates() -> None:
    """Braces, template syntax and any script come through as they are (synthetic-data-kit#54)."""
    nasty = "a {brace} {{ 7 * 7 }} {% if x %} 左转 → ünï \\boxed{5} <b>&amp;</b>"
    text = Prompt("judge", {"topic": nasty, "question": nasty, "answer": nasty}).text
    assert text.count(nasty) == 3


def test_a_value_that_a_template_needs_and_lacks_is_an_error() -> None:
    with pytest.raises(Exception, match="answer"):
        _ = Prompt("judge", {"topic": "t", "question": "q"}).text


def test_every_prompt_renders_with_and_without_an_annotation() -> None:
    topic = {"path": "A ~ B ~ C", "tags": {}}
    axis = {"l1": "X", "l2": "Y", "things": ["z"]}
    labels = {"domain": [{"name": "Nature"}], "ability": [{"name": "Counting"}]}
    for note in ("", '{"kind": "照片"}'):
        rank = Prompt("rank", {"labels": labels, "annotation": note}).text
        assert "Nature; Others" in rank
        assert "Counting; Others" in rank
        density = Prompt("density", {"annotation": note}).text
        values = {"topics": [topic], "budget": 3, "languages": ["en", "zh"], "annotation": note, "seed": 0}
        plan = [{"topic": topic["path"], "type": "open", "language": "zh"}]
        asked = {"plan": plan, "types": {"open": "an open question"}, "annotated": ["谁?"] if note else []}
        write = Prompt("synthesize", values | asked).text
        assert "1. topic: A ~ B ~ C | type: open | language: zh\n" in write
        assert ("- 谁?\n" in write) == bool(note)
        assert "at most 3" in write
        assert all((note in text) == bool(note) or not note for text in (rank, density, write))
        assert all(("annotation" in text) == bool(note) for text in (rank, density, write))
    assert "X ~ Y" in Prompt("topics", {"domain": axis, "ability": axis, "limit": 4}).text
    branch = {"axis": "domain", "l1": "X", "present": ["{Y}"], "others": [], "abilities": ["see"], "limit": 4}
    grow = Prompt("labels", branch).text
    assert "so far: {Y}" in grow
    assert "exercise: see" in grow
    assert "stay empty" in Prompt("labels", branch | {"axis": "ability"}).text
    verify = Prompt("verify", {"topic": "t", "question": "q", "answer": "a", "response": "r"}).text
    assert all(word in verify for word in ("accuracy", "completeness", "authenticity", "relevance", "plausibility"))


def test_roles_and_providers_that_do_not_exist_are_named() -> None:
    with pytest.raises(UserError, match="jugde_1"):
        Asker(DataSection(roles={"jugde_1": "default"}))
    with pytest.raises(UserError, match="'gpt'"):
        Asker(DataSection(roles={"judge_1": "gpt"}))
    section = DataSection(providers={"other": ProviderSection()})
    with pytest.raises(UserError, match="default"):
        Asker(section).provider("rank")


def test_roles_fall_to_the_default_role_and_then_the_default_provider() -> None:
    a, b, c = Scripted("a"), Scripted("b"), Scripted("c")
    asker = Asker(DataSection(roles={"default": "b", "verify": "c"}), {"default": a, "b": b, "c": c})
    assert {role: asker.identity(role) for role in ROLES} == {
        role: f"{role}:{'c' if role == 'verify' else 'b'}" for role in ROLES
    }


def test_catalog_options_without_effect_are_refused() -> None:
    with pytest.raises(UserError, match="no effect"):
        Asker(DataSection(providers={"default": ProviderSection(kind="catalog", model="gpt")}))


def test_a_picture_loads_its_pixels_only_when_looked_at() -> None:
    loads: list[int] = []

    def load() -> Image.Image:
        loads.append(1)
        return Image.new("RGB", (2, 2))

    picture = Picture("sha", load, None)
    assert not loads
    assert picture.image.size == (2, 2)
    assert len(loads) == 1
