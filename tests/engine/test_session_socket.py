"""Sessions over a WebSocket, by a real client: the same answers, keys, faults, cancelling and leaving."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from test_generate import picture
from test_server import KEY, Running, url, wait
from test_session import LONG, OPEN, Server, one_shot
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from open4ov.engine.serving.body import MAX_BODY
from open4ov.engine.sessions.session import Limits


@pytest.fixture(scope="module")
def running(tiny_dir: Path) -> Iterator[Server]:
    running = Server(tiny_dir)
    yield running
    running.close()


@pytest.fixture(name="server")
def nothing_is_held_after_a_test(running: Server) -> Iterator[Server]:
    yield running
    wait(lambda: running.free and running.service.metrics.sessions_open == 0, 60)


class Talk:
    """A client's side of a session."""

    def __init__(self, server: Running, **headers: str) -> None:
        headers = headers or {"Authorization": f"Bearer {KEY}"}
        address = f"ws://127.0.0.1:{server.port}/v1/sessions/ws"
        self._open = ExitStack()
        told = connect(address, additional_headers=headers, open_timeout=60, max_size=None, proxy=None)
        self.socket: ClientConnection = self._open.enter_context(told)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def send(self, kind: str, **content: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **content}))

    def next(self) -> dict[str, Any]:
        return json.loads(self.socket.recv(60))

    def ask(self, kind: str, **content: Any) -> dict[str, Any]:
        self.send(kind, **content)
        return self.next()

    def answer(self) -> tuple[str, list[dict[str, Any]]]:
        """The answer's text, and all that came until it was done."""
        found = [self.next()]
        while found[-1]["type"] == "chunk":
            found.append(self.next())
        pieces = [choice["delta"].get("content", "") for one in found[:-1] for choice in one["chunk"]["choices"]]
        return "".join(pieces), found


def test_turns_answer_as_one_shot(server: Server) -> None:
    with Talk(server) as talk:
        opened = talk.ask("open", **OPEN)
        assert opened["type"] == "opened"
        for kind, content in (
            ("image", {"url": url(picture(1))}),
            ("text", {"append": "what col"}),
            ("text", {"append": "our 👨"}),
            ("text", {"revise": "which colour 👨\u200d👩 is 这?"}),
        ):
            state = talk.ask(kind, **content)
            assert state["type"] == "state"
        assert state["session"]["text"] == "which colour 👨\u200d👩 is 这?"
        talk.send("commit", stream_options={"include_usage": True})
        text, events = talk.answer()
        turns: list[Any] = [("user", [1, "which colour 👨\u200d👩 is 这?"])]
        wanted = one_shot(server, *turns)
        assert text == wanted["choices"][0]["message"]["content"]
        assert events[-1]["type"] == "done"
        assert events[-1]["session"]["turn"] == 1
        assert events[-2]["chunk"]["usage"]["prompt_tokens"] == wanted["usage"]["prompt_tokens"]
        talk.send("text", append="and now?")  # without waiting
        talk.send("commit")
        assert talk.next()["type"] == "state"
        turns += [("assistant", [text]), ("user", ["and now?"])]
        assert talk.answer()[0] == one_shot(server, *turns)["choices"][0]["message"]["content"]
        assert server.service.metrics.sessions_open == 1
        number = opened["session"]["id"]
        assert server.call("GET", f"/{number}")[0] == 200
        talk.send("close")
        with pytest.raises(ConnectionClosed):
            talk.next()
    wait(lambda: server.service.metrics.sessions_open == 0, 60)
    assert server.call("GET", f"/{number}")[0] == 410


def test_leaving_gives_all_back_whatever_is_under_way(server: Server) -> None:
    for doing in ("nothing", "text", "answer"):
        for politely in (True, False):
            talk = Talk(server)
            talk.ask("open", **{**OPEN, "max_tokens": 2000})
            if doing != "nothing":
                talk.ask("text", append=LONG)
            if doing == "answer":
                talk.send("commit")
                assert talk.next()["type"] == "chunk"
            if politely:
                talk.socket.close()
            else:
                talk.socket.socket.close()
            wait(lambda: server.free and server.service.metrics.sessions_open == 0, 60)


def test_an_answer_can_be_given_up_and_the_turn_goes_on(server: Server) -> None:
    with Talk(server) as talk:
        talk.ask("open", **{**OPEN, "max_tokens": 2000})
        talk.ask("text", append="one two")
        talk.send("commit")
        assert talk.next()["type"] == "chunk"
        talk.send("text", append="x")
        talk.send("commit")
        talk.send("cancel")
        events = [talk.next()]
        while events[-1]["type"] != "state":
            events.append(talk.next())
        faults = [event["error"]["code"] for event in events if event["type"] == "error"]
        assert faults == ["answer_under_way"] * 2
        assert (events[-1]["session"]["text"], events[-1]["session"]["turn"]) == ("one two", 0)
        assert not events[-1]["session"]["answering"]
        assert talk.ask("text", append=" three")["session"]["text"] == "one two three"


BAD: list[tuple[str | bytes, str]] = [
    ("", "the body"),
    ("{", "the body"),
    ("[]", "the body"),
    ('{"type": "dance <b>"}', "type"),
    ('{"type": "text"}', "either append or revise"),
    ('{"type": "text", "append": "x", "revise": "x"}', "either append or revise"),
    ('{"type": "text", "append": "\\ud83d"}', "the body"),
    ('{"type": "image", "url": "file:///etc/passwd"}', "data URL"),
    ('{"type": "commit", "stream": false}', "unknown option"),
    ('{"type": "commit"}', "nothing to answer"),
    ('{"type": "open", "model": "tiny"}', "its session already"),
    (b"{}", "messages are text"),
]


def test_what_is_at_fault_is_said_and_the_session_stays(server: Server) -> None:
    with Talk(server) as talk:
        assert "open the session first" in talk.ask("text", append="x")["error"]["message"]
        assert "there is no such model" in talk.ask("open", model="huge")["error"]["message"]
        talk.ask("open", **OPEN)
        for message, said in BAD:
            talk.socket.send(message)
            answer = talk.next()
            assert answer["type"] == "error", message
            assert said in answer["error"]["message"]
            assert "<b>" not in answer["error"]["message"]
        talk.ask("text", append="one")
        talk.send("commit")
        assert talk.answer()[0] == one_shot(server, ("user", ["one"]))["choices"][0]["message"]["content"]


def test_who_is_let_in(server: Server) -> None:
    basic = {"Authorization": f"Basic {base64.b64encode(f'me:{KEY}'.encode()).decode()}"}
    own = f"http://127.0.0.1:{server.port}"
    cases: list[tuple[dict[str, str], int]] = [
        ({"X": "none"}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        (basic, 403),
        ({**basic, "Origin": "http://evil.example"}, 403),
        ({**basic, "Origin": "null"}, 403),
    ]
    for headers, status in cases:
        with pytest.raises(InvalidStatus) as caught:
            Talk(server, **headers)
        assert caught.value.response.status_code == status
        assert json.loads(caught.value.response.body)["error"]["type"] == "invalid_request_error"
    for headers in ({**basic, "Origin": own}, {"Authorization": f"Bearer {KEY}", "Origin": "http://evil.example"}):
        with Talk(server, **headers) as talk:
            assert talk.ask("open", **OPEN)["type"] == "opened"


def test_without_keys_no_page_of_elsewhere_reaches_this_machine(tiny_dir: Path) -> None:
    server = Server(tiny_dir, keys=[])
    try:
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:1"}):
            with pytest.raises(InvalidStatus) as caught:
                Talk(server, **headers)
            assert caught.value.response.status_code == 403
        name = f"evil.example:{server.port}"  # made to mean this machine
        for host, origin, wanted in ((name, f"http://{name}", 403), (f"127.0.0.1:{server.port}", "null", 403)):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("POST", "/v1/sessions", json.dumps(OPEN), {"Host": host, "Origin": origin})
            assert connection.getresponse().status == wanted
        with Talk(server, Origin=f"http://127.0.0.1:{server.port}") as talk:
            assert talk.ask("open", **OPEN)["type"] == "opened"
    finally:
        server.close()


def test_messages_may_be_as_large_as_bodies(server: Server) -> None:
    with Talk(server) as talk:
        talk.ask("open", **OPEN)
        for size, append in ((17 * 2**20, "one"), (MAX_BODY, " two")):
            message = json.dumps({"type": "text", "append": append})
            talk.socket.send(message + " " * (size - len(message)))
            assert talk.next()["type"] == "state"
        talk.socket.send(message + " " * (MAX_BODY + 1 - len(message)))
        with pytest.raises(ConnectionClosed) as caught:
            talk.next()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009  # too big


def test_silence_ends_it(tiny_dir: Path) -> None:
    server = Server(tiny_dir, limits=Limits(idle=1.0))
    try:
        with Talk(server) as talk:
            talk.ask("open", **OPEN)
            with pytest.raises(ConnectionClosed):
                talk.next()
            assert talk.socket.close_code == 4408
        wait(lambda: server.free and server.service.metrics.sessions_open == 0, 60)
    finally:
        server.close()
