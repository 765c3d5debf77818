"""Structured output and the watch over the output, over the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_grammar import SCHEMA
from test_server import ONE, Running

from open4ov.engine.degeneration import Degeneration


@pytest.fixture(scope="module")
def server(tiny_dir: Path) -> Iterator[Running]:
    running = Running(tiny_dir, watch=Degeneration(surprise=2.0, share=1.1, repeated=8))
    yield running
    running.close()


def answer(server: Running, **body: Any) -> str:
    status, content = server.post(messages=ONE, max_tokens=60, **body)
    assert status == 200, content
    assert content["choices"][0]["finish_reason"] == "stop"
    return content["choices"][0]["message"]["content"]


def test_json_by_schema_with_the_official_client(server: Running) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "seen", "schema": SCHEMA, "strict": True}}
    found = server.client.chat.completions.create(
        model="tiny",
        messages=ONE,  # type: ignore[arg-type]
        response_format=wanted,  # type: ignore[arg-type]
        max_tokens=60,
    )
    assert list(json.loads(found.choices[0].message.content or "")) == ["colour", "count", "sure"]


def test_streams_too(server: Running) -> None:
    pieces = server.client.chat.completions.create(
        model="tiny",
        messages=ONE,  # type: ignore[arg-type]
        extra_body={"structured_outputs": {"json": SCHEMA}},
        max_tokens=60,
        stream=True,
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert list(json.loads(text)) == ["colour", "count", "sure"]


def test_choice_and_expression(server: Running) -> None:
    assert answer(server, structured_outputs={"choice": ["left", "right"]}) in ("left", "right")
    assert len(answer(server, structured_outputs={"regex": "[xyz]{5}"})) == 5
    status, content = server.post(messages=ONE, max_tokens=40, response_format={"type": "json_object"})
    assert status == 200
    assert content["choices"][0]["message"]["content"].startswith("{")
    assert server.post(messages=ONE, max_tokens=4, response_format={"type": "text"})[0] == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "text", "json_schema": {"schema": {}}}}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
            "response_format",
        ),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "start: a"}}, "structured_outputs.grammar"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
    ],
)
def test_what_cannot_be_followed(server: Running, body: dict[str, Any], param: str) -> None:
    status, content = server.post(messages=ONE, **body)
    assert status == 400, content
    assert content["error"]["param"] == param
    assert server.post(messages=ONE, max_tokens=2)[0] == 200


def test_a_loop_is_stopped_marked_and_counted(server: Running) -> None:
    reasons = [
        server.post(messages=[{"role": "user", "content": f"Question {i}"}], max_tokens=120, temperature=0)[1]
        ["choices"][0]["finish_reason"]
        for i in range(6)
    ]  # fmt: skip
    assert "repetition" in reasons, "greedy random weights loop"
    counted = server.ask("GET", "/metrics")[1]
    assert f'finished_reason="repetition"}} {reasons.count("repetition")}' in counted
