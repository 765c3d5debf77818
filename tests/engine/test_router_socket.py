"""WebSockets through the router: both ways, closed as the other side closes, and never cut in silence."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest
from fake_node import FakeNode, RunningRouter, answer, break_off, wait
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve


class SocketNode:
    """A node whose `/v1/sessions/ws` does what `behaviour` says."""

    def __init__(self) -> None:
        self.behaviour: Callable[[ServerConnection], None] = lambda socket: None
        self.asked: list[dict[str, str]] = []
        self.freed = threading.Event()

        def first(socket: ServerConnection, request: object) -> object:
            if request.path == "/health":  # type: ignore[attr-defined]
                return socket.respond(HTTPStatus.OK, "ok")
            self.asked.append({name.lower(): value for name, value in request.headers.raw_items()})  # type: ignore[attr-defined]
            return None

        def talk(socket: ServerConnection) -> None:
            try:
                self.behaviour(socket)
            except ConnectionClosed:
                self.freed.set()

        self.server: Server = serve(talk, "127.0.0.1", 0, process_request=first, max_size=2**26)  # type: ignore[arg-type]
        self.url = f"http://127.0.0.1:{self.server.socket.getsockname()[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()


@pytest.fixture(scope="module")
def lasting() -> SocketNode:
    return SocketNode()


@pytest.fixture
def node(lasting: SocketNode) -> SocketNode:
    lasting.asked.clear()
    lasting.freed.clear()
    return lasting


@pytest.fixture(scope="module")
def router(lasting: SocketNode) -> Iterator[RunningRouter]:
    router = RunningRouter([lasting, FakeNode()], keys=("k",), node_key="inner")  # type: ignore[list-item]
    yield router
    router.close()


def talk(router: RunningRouter, session: str, key: str | None = "k", **headers: str) -> ClientConnection:
    given = {"x-session-id": session, **headers, **({"authorization": f"Bearer {key}"} if key else {})}
    url = f"ws://127.0.0.1:{router.port}/v1/sessions/ws"
    return connect(url, additional_headers=given, max_size=2**26, proxy=None, compression=None)


def in_flight(router: RunningRouter) -> int:
    return sum(node.in_flight for node in router.nodes.all.values())


def test_both_ways(node: SocketNode, router: RunningRouter) -> None:
    def echo(socket: ServerConnection) -> None:
        for message in socket:
            socket.send(message)
            socket.send(f"{len(message)} more")

    node.behaviour = echo
    with talk(router, router.session(node), cookie="c") as socket:  # type: ignore[arg-type]
        for message in ("text", b"bytes", "ü" * 3_000_000):
            socket.send(message)
            assert socket.recv() == message
            assert socket.recv() == f"{len(message)} more"
        assert in_flight(router) == 1
    wait(lambda: in_flight(router) == 0)
    assert node.asked[0]["authorization"] == "Bearer inner"
    assert "cookie" not in node.asked[0]


def test_it_is_closed_as_the_node_closes_it(node: SocketNode, router: RunningRouter) -> None:
    def last_words(socket: ServerConnection) -> None:
        socket.recv()
        socket.send("last")
        socket.close(4408, "too long")

    node.behaviour = last_words
    with talk(router, router.session(node)) as socket:  # type: ignore[arg-type]
        socket.send("x")
        assert socket.recv() == "last"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4408, "too long")


@pytest.mark.parametrize("properly", [True, False])
def test_a_client_that_leaves_frees_the_node(node: SocketNode, router: RunningRouter, properly: bool) -> None:
    node.behaviour = lambda socket: [socket.send(message) for message in iter(socket.recv, "")] and None
    with talk(router, router.session(node)) as socket:  # type: ignore[arg-type]
        socket.send("x")
        assert socket.recv() == "x"
        assert not node.freed.is_set()
        if not properly:
            socket.socket.shutdown(2)
    assert node.freed.wait(60)
    wait(lambda: in_flight(router) == 0)


def test_a_node_that_dies_is_told(node: SocketNode, router: RunningRouter) -> None:
    def dies(socket: ServerConnection) -> None:
        socket.send("one")
        socket.recv()
        socket.socket.shutdown(2)

    node.behaviour = dies
    with talk(router, router.session(node)) as socket:  # type: ignore[arg-type]
        assert socket.recv() == "one"
        socket.send("die")
        assert json.loads(socket.recv())["error"]["code"] == "node_lost"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


def test_another_node_takes_what_one_refuses(node: SocketNode, router: RunningRouter) -> None:
    fake = router.fakes[1]
    node.behaviour = lambda socket: socket.send("here")
    for refusal in (answer(503, b"{}"), answer(429, b"{}"), break_off):
        fake.behaviour = refusal
        with talk(router, router.session(fake, node)) as socket:  # type: ignore[arg-type]
            assert socket.recv() == "here"
    assert len(fake.asked) == 3
    fake.behaviour = answer(307, b"{}", f"location: {node.url}/v1/sessions/ws")
    asked = len(node.asked)
    with pytest.raises(InvalidStatus) as refused:
        talk(router, router.session(fake, node))  # type: ignore[arg-type]
    assert refused.value.response.status_code == 502
    assert len(node.asked) == asked, "a node's redirect is not followed"


def test_who_may_not_open_one(node: SocketNode, router: RunningRouter) -> None:
    for key in (None, "wrong", "inner"):
        with pytest.raises(InvalidStatus) as refused:
            talk(router, "s", key)
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "invalid_api_key"
    open_ = RunningRouter([FakeNode()])
    try:
        with pytest.raises(InvalidStatus) as refused:
            talk(open_, "s", None, origin="http://evil.example")
        assert refused.value.response.status_code == 403
        open_.fakes[0].health = answer(503, b"")
        wait(lambda: open_.metric("node_healthy") == 0)
        with pytest.raises(InvalidStatus) as refused:
            talk(open_, "s", None)
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["retry-after"] == "1"
        assert not open_.fakes[0].asked
    finally:
        open_.close()
    assert not node.asked
