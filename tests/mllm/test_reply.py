"""Answers with something around them: a Markdown fence, reasoning in front."""

from __future__ import annotations

import pytest
from endpoint import endpoint
from hypothesis import given
from hypothesis import strategies as st

from open4ov.mllm import Asker, Prompt, Request, reply
from open4ov.mllm.answers import Judgement
from open4ov.recipe import DataSection, ProviderSection

JSON = '{"score": 1, "reason": "a ```fence``` and a </think> in it"}'
REQUEST = Request("judge_1", Prompt("judge", {"topic": "t", "question": "q", "answer": "a"}), (), Judgement)


@pytest.mark.parametrize(
    "said",
    [
        JSON,
        f"  {JSON}\n",
        f"```json\n{JSON}\n```",
        f"```\r\n{JSON}\r\n```\n",
        f"<think>\nIt has {{braces}} and\n```json\n{{}}\n```\n</think>\n\n{JSON}",
        f"<think></think>```JSON\n{JSON}\n```",
        f"the template has begun the block </think> {JSON}",
    ],
)
def test_one_fence_and_reasoning_in_front_are_taken_off(said: str) -> None:
    assert reply.fit(said, REQUEST) == {"score": 1, "reason": "a ```fence``` and a </think> in it"}


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f"Here you are:\n```json\n{JSON}\n```", "not_json"),
        (f"```json\n{JSON}\n```\n```json\n{JSON}\n```", "not_json"),
        ('```json\n{"score": 1, "rea\n```', "truncated"),
        ('```json\n{"score": 4, "reason": "r"}\n```', "schema"),
        ("<think>what is it", "not_json"),
        ("```", "not_json"),
        ("```json\n```", "not_json"),
    ],
)
def test_what_is_none_then_is_none_still(said: str, kind: str) -> None:
    with pytest.raises(reply.Misfit) as misfit:
        reply.fit(said, REQUEST)
    assert misfit.value.kind == kind
    assert ("Markdown fence" in misfit.value.reason) == (kind == "not_json")


@given(st.text())
def test_json_is_never_changed(text: str) -> None:
    whole = Judgement(score=0, reason=text).model_dump_json()
    assert reply.bare(whole) == whole
    assert reply.bare(f"```json\n{whole}\n```") == whole
    assert reply.bare(f"<think>{text.replace('</think>', '')}</think>{whole}") == whole


def test_an_endpoint_without_structured_output_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")
    with endpoint(lambda body, number: f"```json\n{JSON}\n```") as server:
        provider = ProviderSection(kind="openai", base_url=server.url, model="m", api_key_env="TEST_KEY")
        (answer,) = Asker(DataSection(providers={"default": provider})).ask_many([REQUEST])
        assert len(server.bodies) == 1
    assert isinstance(answer, dict)
    assert answer["score"] == 1
