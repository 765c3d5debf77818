"""The endpoint provider against a real HTTP server on this machine."""

from __future__ import annotations

import base64
import io
import json
import logging
from typing import Any

import pytest
from endpoint import endpoint
from PIL import Image

from open4ov.mllm import AnswerError, Asker, Picture, Prompt, ProviderError, Request
from open4ov.mllm.answers import Judgement
from open4ov.mllm.openai import OpenAIProvider
from open4ov.recipe import DataSection, ProviderSection

KEY = "sk-very-secret-4711"
GOOD = json.dumps({"score": 1, "reason": "左转标志 {ok}"}, ensure_ascii=False)
NASTY = "What is {this}? {{ 左 }} \\boxed{}"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def section(url: str, **more: Any) -> ProviderSection:
    return ProviderSection(kind="openai", base_url=url, model="judge-7b", api_key_env="TEST_KEY", **more)


def picture() -> Picture:
    return Picture("sha", lambda: Image.new("RGB", (3, 2), (10, 200, 30)), {"kind": "secret annotation"})


def request() -> Request:
    return Request(
        "judge_1", Prompt("judge", {"topic": "t", "question": NASTY, "answer": "a"}), (picture(),), Judgement
    )


def test_a_broken_answer_is_sent_back_once_with_what_was_wrong() -> None:
    with endpoint(lambda body, number: '{"score": 1, "reason": ' if number == 0 else GOOD) as server:
        answer = OpenAIProvider(section(server.url), "data.providers.default").answer(request())
    assert answer == {"score": 1, "reason": "左转标志 {ok}"}
    first, second = server.bodies
    assert len(first["messages"]) == 1
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"] == '{"score": 1, "reason": '
    assert "Invalid JSON" in second["messages"][2]["content"]


def test_json_of_the_wrong_shape_is_repaired_too_and_twice_wrong_is_an_answer_error() -> None:
    with endpoint(lambda body, number: '{"score": "maybe", "reason": "r"}') as server:
        provider = OpenAIProvider(section(server.url), "data.providers.default")
        with pytest.raises(AnswerError, match=r"data\.providers\.default.*judge_1.*score"):
            provider.answer(request())
    assert len(server.bodies) == 2
    assert "score" in server.bodies[1]["messages"][2]["content"]


def test_the_request_carries_the_schema_the_image_and_the_text_as_they_are() -> None:
    with endpoint(lambda body, number: GOOD) as server:
        OpenAIProvider(section(server.url), "data.providers.default").answer(request())
    body = server.bodies[0]
    assert body["model"] == "judge-7b"
    assert body["temperature"] == 0
    schema = body["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"]) == ("Judgement", True)
    assert schema["schema"]["additionalProperties"] is False
    assert set(schema["schema"]["required"]) == {"score", "reason"}
    image, text = body["messages"][0]["content"]
    head, data = image["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (sent.size, sent.convert("RGB").getpixel((2, 1))) == ((3, 2), (10, 200, 30))
    assert f"Question: {NASTY}\n" in text["text"]
    assert "secret annotation" not in json.dumps(body)  # judges are not told what the annotation says


def test_the_client_retries_a_failing_server() -> None:
    with endpoint(lambda body, number: 500 if number == 0 else GOOD) as server:
        assert OpenAIProvider(section(server.url), "x").answer(request())["score"] == 1
    assert len(server.bodies) == 2


def test_a_refusing_endpoint_is_named_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with endpoint(lambda body, number: 401) as server:
        with pytest.raises(ProviderError, match="HTTP 401") as error:
            OpenAIProvider(section(server.url), "data.providers.default").answer(request())
        assert server.url in str(error.value)
    assert server.keys == [f"Bearer {KEY}"]
    assert KEY not in str(error.value)
    assert KEY not in caplog.text


def test_no_endpoint_no_model_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda body, number: GOOD) as server:
        url = server.url  # a port that nobody listens on any more
    with pytest.raises(ProviderError, match="is it up"):
        OpenAIProvider(section(url), "x").answer(request())
    with pytest.raises(ProviderError, match=r"data\.providers\.a\.model"):
        OpenAIProvider(ProviderSection(kind="openai", api_key_env="TEST_KEY"), "data.providers.a")
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(ProviderError, match="TEST_KEY"):
        Asker(DataSection(providers={"default": section(url)}))
