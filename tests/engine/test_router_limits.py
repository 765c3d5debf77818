"""What a router takes of a client: bodies and connections within a server's limits, before any node is asked."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from fake_node import FakeNode, RunningRouter, answer, break_off, wait

from open4ov.engine.serving import body, listen

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def router() -> Iterator[RunningRouter]:
    router = RunningRouter([FakeNode()])
    router.renew()
    yield router
    router.close()


def half(router: RunningRouter, content: bytes) -> bytes:
    """What comes back until the router closes the connection."""
    with socket.create_connection(("127.0.0.1", router.port), timeout=30) as connection:
        connection.sendall(content)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def test_bodies_of_many_values_reach_no_node(router: RunningRouter) -> None:
    many = json.dumps({"model": "tiny", "messages": [{}] * (body.MAX_VALUES + 1)}).encode()
    status, content, _ = router.ask("POST", CHAT, many)
    assert (status, content["error"]["type"]) == (400, "invalid_request_error")
    assert str(body.MAX_VALUES) in content["error"]["message"]
    assert not router.fakes[0].asked


def test_what_all_bodies_hold_has_a_limit_and_is_given_back(
    router: RunningRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x" * 2000}]}).encode()
    assert router.ask("POST", CHAT, asked)[0] == 200
    wait(lambda: not router.app.state.room.held)
    monkeypatch.setattr(router.app.state.room, "limit", 1000)
    status, content, headers = router.ask("POST", CHAT, asked)
    assert (status, content["error"]["code"], headers["retry-after"]) == (503, "server_overloaded", "1")
    assert router.ask("POST", CHAT, b'{"messages": []}')[0] == 200
    wait(lambda: not router.app.state.room.held)


def test_bodies_and_heads_that_come_slowly_end(router: RunningRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "SECONDS", 0.3)
    monkeypatch.setattr(listen.Connection, "head_seconds", 0.3)
    assert half(router, f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode()).startswith(
        b"HTTP/1.1 408 "
    )
    assert half(router, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""


def test_a_session_whose_node_does_not_answer_is_no_hit(router: RunningRouter) -> None:
    node = router.fakes[0]
    node.behaviour = answer(200, json.dumps({"id": "sess-1"}).encode())
    assert router.ask("POST", "/v1/sessions", {"model": "tiny"})[0] == 200
    assert router.ask("GET", "/v1/sessions/sess-1")[0] == 200
    assert router.metric("affinity_total", kind="session", result="hit") == 1
    node.behaviour = break_off
    assert router.ask("GET", "/v1/sessions/sess-1")[0] == 502
    assert router.metric("affinity_total", kind="session", result="hit") == 1
