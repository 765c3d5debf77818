"""The router over nodes that misbehave exactly as told: what is retried, what is passed on, what never is."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from fake_node import (
    DONE,
    HEAD,
    Asked,
    Behaviour,
    FakeNode,
    RunningRouter,
    answer,
    break_off,
    chunk,
    event,
    said,
    streamed,
    wait,
)

from open4ov import cli_serving
from open4ov.engine.routing.nodes import Nodes
from open4ov.errors import UserError


@pytest.fixture(scope="module")
def lasting() -> Iterator[RunningRouter]:
    router = RunningRouter([FakeNode() for _ in range(3)])
    yield router
    router.close()


@pytest.fixture
def three(lasting: RunningRouter) -> RunningRouter:
    """A router over nodes that answer a, b and c."""
    lasting.renew()
    return lasting


@pytest.fixture
def fresh() -> Iterator[RunningRouter]:
    """The same, with nodes and counters of its own."""
    router = RunningRouter([FakeNode() for _ in range(3)])
    router.renew()
    yield router
    router.close()


def text(answered: tuple[int, object, object]) -> str:
    assert answered[0] == 200, answered
    return answered[1]["choices"][0]["message"]["content"]  # type: ignore[index]


def error(answered: tuple[int, object, object], status: int) -> str:
    assert answered[0] == status, answered
    found = answered[1]["error"]  # type: ignore[index]
    assert set(found) == {"message", "type", "param", "code"}
    return found["code"]


def test_a_session_keeps_its_node_and_sessions_are_spread(fresh: RunningRouter) -> None:
    a, b, c = fresh.fakes
    for name, fake in zip("abc", fresh.fakes, strict=True):
        session = fresh.session(fake)
        assert [text(fresh.chat(session)) for _ in range(3)] == [name] * 3
    assert [len(fake.asked) for fake in (a, b, c)] == [3, 3, 3]
    assert fresh.metric("affinity_total", kind="session", result="hit") == 9
    assert fresh.metric("requests_total", node=a.url) == 3


def image_body(data: bytes, question: str, spaced: bool = False) -> dict[str, object]:
    code = base64.b64encode(data).decode()
    kind = "image/jpeg" if spaced else "image/png"
    parts = [
        {"type": "text", "text": question},
        {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{code}"}},
    ]
    return {"model": "tiny", "messages": [{"role": "system", "content": question}, {"role": "user", "content": parts}]}


def test_pictures_and_conversations_keep_their_nodes(fresh: RunningRouter) -> None:
    def where(body: object) -> str:
        # an answer is there a moment before its node is free again, and a node with more than its part is passed by
        wait(lambda: not any(node.in_flight for node in fresh.nodes.all.values()))
        return text(fresh.ask("POST", "/v1/chat/completions", body))

    pictures = [bytes([i]) * 500 for i in range(40)]
    first = [where(image_body(data, "what?")) for data in pictures]
    assert first == [where(image_body(data, "and now?", spaced=True)) for data in pictures]
    assert set(first) == set("abc")
    large = b"\7" * 600_000
    assert where(image_body(large, "one")) == where(image_body(large, "two"))
    conversations = [[{"role": "system", "content": "s"}, {"role": "user", "content": f"{i}"}] for i in range(40)]
    first = [where({"messages": turns}) for turns in conversations]
    more = [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "why?"}]
    assert first == [where({"messages": [*turns, *more]}) for turns in conversations]
    assert set(first) == set("abc")
    assert fresh.metric("affinity_total", kind="image", result="hit") == 82
    assert fresh.metric("affinity_total", kind="prefix", result="hit") == 80


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"[" * 10_000, b'{"messages": 7}', b'{"messages": [3, null]}', b"\xff"]
)
def test_what_is_no_request_is_the_nodes_to_refuse(three: RunningRouter, body: bytes) -> None:
    for fake in three.fakes:
        fake.behaviour = answer(400, b'{"error": {"message": "no"}}')
    status, content, _ = three.ask("POST", "/v1/chat/completions", body)
    assert (status, content) == (400, {"error": {"message": "no"}})
    assert sum(len(fake.asked) for fake in three.fakes) == 1


def test_only_what_is_listed_goes_on(three: RunningRouter) -> None:
    a = three.fakes[0]
    session = three.session(a)
    smuggled = {"x-session-id": session, "x-request-id": "mine-1", "cookie": "c", "x-forwarded-host": "evil",
                "authorization": "Bearer k", "connection": "close", "forwarded": "for=1", "te": "trailers",
                "host": "evil.example/v1/models?", "accept-encoding": "gzip"}  # fmt: skip
    status, _, headers = three.ask("POST", "/v1/chat/completions?url=http://evil", {"messages": []}, smuggled)
    assert status == 200
    (got,) = a.asked
    assert got.path == "/v1/chat/completions"
    assert got.headers["host"] == a.url.removeprefix("http://")
    assert set(got.headers) - {"user-agent", "accept", "connection"} == {
        "host", "x-session-id", "x-request-id", "authorization", "content-length", "accept-encoding"}  # fmt: skip
    assert (got.headers["authorization"], got.headers["x-request-id"]) == ("Bearer k", "mine-1")
    assert got.headers["accept-encoding"] == "identity"
    assert headers["x-request-id"] == "req-of-node"
    assert "x-secret" not in headers
    for path in ("/", "/docs", "/v1/completions", "/v1/sessions/../models", "/v1/sessions/a%2f..%2fb/c",
                 "/v1/sessions/a.b", "/v1/sessions/s/..%2f..%2fmetrics", "//evil/v1/models"):  # fmt: skip
        assert error(three.ask("GET", path), 404) == "not_found"
    assert error(three.ask("GET", "/v1/chat/completions"), 405) == "method_not_allowed"
    assert error(three.ask("POST", "/v1/chat/completions", b" " * (33 * 2**20)), 413) == "invalid_request_error"
    endless = http.client.HTTPConnection("127.0.0.1", three.port, timeout=60)  # one that does not say how long it is
    endless.request("POST", "/v1/chat/completions", (b" " * 2**20 for _ in range(33)), encode_chunked=True)
    assert endless.getresponse().status == 413
    endless.close()
    assert sum(len(fake.asked) for fake in three.fakes) == 1


@pytest.fixture(scope="module")
def keyed() -> Iterator[RunningRouter]:
    router = RunningRouter([FakeNode()], keys=("one", "two"), node_key="inner")
    yield router
    router.close()


@pytest.mark.parametrize("place", ["/v1/sessions", "/v1/chat/completions", "/v1/models", "/metrics", "/nowhere"])
def test_keys(keyed: RunningRouter, place: str) -> None:
    router, (node,) = keyed, keyed.fakes
    router.renew()
    method = "GET" if place in ("/v1/models", "/metrics", "/nowhere") else "POST"
    for key in (None, "Bearer", "Bearer three", "Bearer inner", "Basic one"):
        headers = {} if key is None else {"authorization": key}
        refused = router.ask(method, place, headers=headers)
        assert error(refused, 401) == "invalid_api_key"
        assert refused[2]["x-request-id"].startswith("req-")
    assert not node.asked
    assert router.ask("GET", "/health")[0] == 200
    assert router.ask(method, place, headers={"authorization": "Bearer two"})[0] == (404 if "no" in place else 200)
    assert all(asked.headers["authorization"] == "Bearer inner" for asked in node.asked)
    assert len(node.asked) == (place.startswith("/v1"))


BROKEN = {
    "nothing": lambda asked: None,
    "a reset": break_off,
    "half of it": lambda asked: asked.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    ),
    "noise": lambda asked: asked.send(b"\x00\xff\x01 garbage \r\n\r\n"),
    "a page": answer(200, b"<html>", kind="text/html"),
    "no JSON": answer(200, b"{'a'"),
    "no object": answer(200, b"[1]"),
    "a redirect": answer(307, b"{}", "location: http://127.0.0.1:1/"),
    "a broken error": answer(500, b"Traceback 0x7f"),
    "a stream without events": streamed([]),
    "a stream that breaks at once": streamed([event("x")[:20]], end=b""),
    "a stream of noise": streamed([b"what?\n\n", DONE]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_node_that_breaks_before_its_answer_is_passed_over(three: RunningRouter, case: str) -> None:
    a, b, c = three.fakes
    a.behaviour = BROKEN[case]
    session = three.session(a, b, c)
    assert text(three.chat(session)) == "b"
    assert (len(a.asked), len(b.asked), len(c.asked)) == (1, 1, 0)
    assert three.metric("retries_total", node=b.url) == 1
    assert three.metric("failures_total", node=a.url) == 1
    b.behaviour = BROKEN[case]
    status = three.chat(session)
    assert error(status, 502) == "bad_gateway"
    assert not c.asked, "a request that breaks nodes shall not go through all of them"
    assert three.metric("requests_in_flight") == 0


def test_busy_nodes_pass_on_and_all_busy_is_said(fresh: RunningRouter) -> None:
    a, b, c = fresh.fakes
    busy = json.dumps({"error": {"message": "wait", "type": "server_error", "param": None, "code": "x"}}).encode()
    a.behaviour = answer(503, busy, "retry-after: 3")
    b.behaviour = answer(429, busy, "retry-after: 9")
    session = fresh.session(a, b, c)
    assert text(fresh.chat(session)) == "c"
    assert fresh.metric("affinity_total", kind="session", result="moved") == 1
    c.behaviour = answer(503, busy, "retry-after: <script>")
    status, content, headers = fresh.chat(session)
    assert (status, content["error"]["message"], headers["retry-after"]) == (503, "wait", "1")
    c.behaviour = answer(429, busy, "retry-after: 7")
    status, content, headers = fresh.chat(session)
    assert (status, headers["retry-after"]) == (429, "7")
    assert fresh.metric("node_healthy") == 3, "busy is not sick"
    a.behaviour = answer(500, busy)
    assert error(fresh.chat(session), 500) == "x"
    assert len(b.asked) == 3


def test_refused_connections_and_nodes_that_are_back(fresh: RunningRouter) -> None:
    a, b, c = fresh.fakes
    session = fresh.session(a, b)
    a.stop()
    assert [text(fresh.chat(session)) for _ in range(5)] == ["b"] * 5
    wait(lambda: fresh.metric("node_healthy", node=a.url) == 0)
    assert fresh.metric("failures_total", node=a.url) >= 3
    b.health = answer(503, b"")
    wait(lambda: fresh.metric("node_healthy") == 1)
    assert text(fresh.chat(session)) == "c"
    c.health = break_off
    wait(lambda: fresh.metric("node_healthy") == 0)
    down = fresh.chat(session)
    assert error(down, 503) == "no_node"
    assert down[2]["retry-after"] == "1"
    assert fresh.ask("GET", "/health")[0] == 503
    asked = len(b.asked)
    a.start()
    wait(lambda: fresh.metric("node_healthy", node=a.url) == 1)
    assert text(fresh.chat(session)) == "a"
    assert len(b.asked) == asked
    assert fresh.ask("GET", "/health")[0] == 200


def client(router: RunningRouter) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url=f"http://127.0.0.1:{router.port}/v1", max_retries=0, timeout=60)


def stream(router: RunningRouter, session: str) -> Iterator[str]:
    chunks = client(router).chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "x"}], stream=True, extra_headers={"x-session-id": session}
    )
    for one in chunks:
        yield one.choices[0].delta.content or ""


def test_streams_come_as_they_are_and_unbuffered(three: RunningRouter) -> None:
    go = threading.Event()

    def slowly(asked: Asked) -> None:
        asked.send(HEAD + chunk(event("one")))
        assert go.wait(60)
        whole = event("twö") + event("three") + DONE
        for place in range(len(whole)):
            asked.send(chunk(whole[place : place + 1]))
        asked.send(b"0\r\n\r\n")

    three.fakes[0].behaviour = slowly
    pieces = stream(three, three.session(three.fakes[0]))
    assert next(pieces) == "one"
    assert three.metric("requests_in_flight", node=three.fakes[0].url) == 1
    go.set()
    assert list(pieces) == ["twö", "three"]
    wait(lambda: three.metric("requests_in_flight") == 0)
    assert three.metric("failures_total") == 0


CUT = {
    "reset": (lambda asked: (asked.send(HEAD + chunk(event("one"))), break_off(asked)), ["one"]),
    "in an event": (streamed([event("one"), event("two")[:30]], end=b""), ["one"]),
    "in an event, properly ended": (streamed([event("one"), event("two")[:30]]), ["one"]),
    "without an end": (streamed([event("one"), event("two")]), ["one", "two"]),
    "noise": (streamed([event("one"), b"\x00\x01\n\n", DONE]), ["one"]),
    "by its connection's end": (
        lambda asked: asked.send(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + event("one")),
        ["one"],
    ),
}


@pytest.mark.parametrize("case", CUT)
def test_a_stream_that_is_cut_says_so_and_is_not_repeated(three: RunningRouter, case: str) -> None:
    behaviour, expected = CUT[case]
    three.fakes[0].behaviour = behaviour  # type: ignore[assignment]
    found: list[str] = []
    pieces = stream(three, three.session(three.fakes[0]))
    with pytest.raises(openai.APIError, match="the node that answered was lost") as raised:
        found.extend(pieces)
    assert found == expected
    assert raised.value.code == "node_lost"
    assert [len(fake.asked) for fake in three.fakes] == [1, 0, 0]
    assert three.metric("failures_total", node=three.fakes[0].url) == 1
    assert three.metric("requests_in_flight") == 0


def test_a_stream_may_lose_its_node_after_its_end(three: RunningRouter) -> None:
    three.fakes[0].behaviour = streamed([event("one"), DONE], end=b"")
    assert list(stream(three, three.session(three.fakes[0]))) == ["one"]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_leaves_frees_the_node(three: RunningRouter, streaming: bool) -> None:
    freed = threading.Event()

    def waits(asked: Asked) -> None:
        if streaming:
            asked.send(HEAD + chunk(event("one")))
        if asked.left():
            freed.set()

    a = three.fakes[0]
    a.behaviour = waits
    body = b'{"messages": []}'
    connection = socket.create_connection(("127.0.0.1", three.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-session-id: {three.session(a)}\r\n"
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    wait(lambda: a.asked)
    if streaming:
        assert b"200" in connection.recv(1000)
    assert not freed.is_set()
    connection.close()
    assert freed.wait(60)
    wait(lambda: three.metric("requests_in_flight") == 0)
    assert three.metric("failures_total") == 0
    assert three.metric("retries_total") == 0


def test_a_slow_node_is_waited_for_and_a_hot_key_flows_over(three: RunningRouter) -> None:
    go = threading.Event()
    a, b, c = three.fakes
    a.behaviour = lambda asked: go.wait(60) and said("a")(asked)
    session = three.session(a, b, c)
    with ThreadPoolExecutor(20) as pool:
        slow = [pool.submit(three.chat, session) for _ in range(8)]
        wait(lambda: len(a.asked) == 8)
        assert text(three.chat(session)) == "b"
        go.set()
        assert [text(one.result()) for one in slow] == ["a"] * 8
    assert text(three.chat(session)) == "a"
    assert three.metric("node_healthy") == 3


@pytest.mark.parametrize("begun", [True, False])
def test_nobody_waits_for_a_node_that_hangs(begun: bool) -> None:
    go = threading.Event()
    a, b = FakeNode(), FakeNode()
    router = RunningRouter([a, b], timeout=1.0)
    try:
        b.behaviour = streamed([event("whole"), DONE])

        def hangs(asked: Asked) -> None:
            if begun:
                asked.send(HEAD + chunk(event("one")))
            a.health = lambda _: go.wait(60)
            go.wait(60)

        a.behaviour = hangs
        pieces = stream(router, router.session(a))
        if begun:
            assert next(pieces) == "one"
            with pytest.raises(openai.APIError, match="the node that answered was lost"):
                next(pieces)
            assert not b.asked
        else:
            assert list(pieces) == ["whole"]
        assert router.metric("node_healthy", node=a.url) == 0
        wait(lambda: router.metric("requests_in_flight") == 0)
    finally:
        go.set()
        router.close()


@pytest.mark.slow
def test_a_node_that_goes_on_with_its_stream_is_not_given_up() -> None:
    """Its health checks hang until it is out; what it has begun comes whole all the same."""
    go, said_all = threading.Event(), [str(n) for n in range(40)]
    a, b = FakeNode(), FakeNode()
    router = RunningRouter([a, b], timeout=0.2, patience=2.0)
    try:

        def slow(asked: Asked) -> None:
            a.health = lambda _: go.wait(60)
            asked.send(HEAD)
            for piece in said_all:
                asked.send(chunk(event(piece)))
                go.wait(0.1)
            asked.send(chunk(DONE) + b"0\r\n\r\n")

        a.behaviour = slow
        pieces = stream(router, router.session(a))
        first = [next(pieces) for _ in range(30)]
        assert router.metric("node_healthy", node=a.url) == 0
        assert [*first, *pieces] == said_all
    finally:
        go.set()
        router.close()


def test_a_node_that_refuses_new_connections_may_finish(fresh: RunningRouter) -> None:
    go = threading.Event()
    a = fresh.fakes[0]
    a.behaviour = lambda asked: (asked.send(HEAD + chunk(event("one"))), go.wait(60), asked.send(chunk(DONE)))
    pieces = stream(fresh, fresh.session(a))
    assert next(pieces) == "one"
    a.health = break_off
    wait(lambda: fresh.metric("node_healthy", node=a.url) == 0)
    go.set()
    assert list(pieces) == []


def test_a_router_that_stops_ends_its_streams_with_an_error(fresh: RunningRouter) -> None:
    a = fresh.fakes[0]
    a.behaviour = lambda asked: (asked.send(HEAD + chunk(event("one"))), asked.left())
    pieces = stream(fresh, fresh.session(a))
    assert next(pieces) == "one"
    fresh.server.should_exit = True
    with pytest.raises(openai.APIError, match="the router is going down"):
        list(pieces)


def test_pages_of_others_reach_no_node(three: RunningRouter) -> None:
    foreign = {"origin": "http://evil.example", "content-type": "text/plain"}
    refused = three.ask("POST", "/v1/chat/completions", {"messages": []}, foreign)
    assert error(refused, 403) == "foreign_origin"
    assert not any(fake.asked for fake in three.fakes)


def opened(name: str) -> Behaviour:
    return answer(201, json.dumps({"id": name, "object": "session"}).encode())


def test_a_session_stays_where_it_was_opened(fresh: RunningRouter) -> None:
    for place, fake in enumerate(fresh.fakes):
        fake.behaviour = opened(f"sess-{place}")
    names = [fresh.ask("POST", "/v1/sessions", {})[1]["id"] for _ in range(3)]
    assert sorted(names) == ["sess-0", "sess-1", "sess-2"], "the least loaded is asked"
    for fake in fresh.fakes:
        fake.asked.clear()
        fake.behaviour = said("here")
    for name in reversed(names):
        assert fresh.ask("POST", f"/v1/sessions/{name}/images", {"url": "x"})[0] == 200
        assert fresh.ask("DELETE", f"/v1/sessions/{name}")[0] == 200
    for place, fake in enumerate(fresh.fakes):
        assert [(asked.method, asked.path) for asked in fake.asked] == [
            ("POST", f"/v1/sessions/sess-{place}/images"), ("DELETE", f"/v1/sessions/sess-{place}"),
        ]  # fmt: skip
    fresh.fakes[1].stop()
    gone = fresh.ask("POST", "/v1/sessions/sess-1/commit", {})
    assert error(gone, 503) == "no_node"
    assert gone[2]["retry-after"] == "1"
    assert [len(fake.asked) for fake in fresh.fakes] == [2, 2, 2], "nobody else is asked for it"


def test_a_session_opened_elsewhere_is_looked_for(fresh: RunningRouter) -> None:
    unknown = answer(
        404, b'{"error": {"message": "no session", "type": "x", "param": null, "code": "session_not_found"}}'
    )
    for fake in fresh.fakes:
        fake.behaviour = unknown
    fresh.fakes[2].behaviour = streamed([event("one"), DONE])
    for _ in range(3):
        assert fresh.ask("POST", "/v1/sessions/old/commit", {})[0] == 200
    assert len(fresh.fakes[2].asked) == 3
    assert sum(len(fake.asked) for fake in fresh.fakes[:2]) <= 2, "once it is found, it is known"
    fresh.fakes[2].behaviour = unknown
    assert error(fresh.ask("GET", "/v1/sessions/none"), 404) == "session_not_found"


def test_the_command_is_closed_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEYS", raising=False)
    with pytest.raises(UserError, match=r"--host 0.0.0.0: others could connect; set NO_KEYS"):
        cli_serving.route(["http://127.0.0.1:1"], host="0.0.0.0", api_key_env="NO_KEYS")
    with pytest.raises(UserError, match=r"127.0.0.1:1: not a node's address"):
        cli_serving.route(["127.0.0.1:1"], api_key_env="NO_KEYS")


@pytest.mark.parametrize(
    "addresses",
    [[], ["127.0.0.1:80"], ["http://a:1", "http://a:1/"], ["file:///etc"], ["http://a"], ["http://a:0"], ["http://a:99999"],
     ["http://u:p@a:1"], ["http://a:1/v1"], ["http://a:1?x"], ["http://a:1\r\nx"]],
)  # fmt: skip
def test_addresses_that_are_none(addresses: list[str]) -> None:
    with pytest.raises(UserError):
        Nodes(addresses)
    assert list(Nodes(["http://A:1/", "https://[::1]:2"]).all) == ["http://a:1", "https://[::1]:2"]
