"""Keys apart from each other, limits by key, clients that are slow or leave, clocks that jump, and the server's end."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from test_decoder import running as process_runs
from test_generate import picture
from test_server import KEY, ONE, Running, url, wait, words

from open4ov.engine.routing.nodes import Nodes
from open4ov.engine.routing.router import create_app
from open4ov.engine.serving import body, listen
from open4ov.engine.serving.gate import Gate
from open4ov.engine.serving.room import Full, Room, TooMuch


@pytest.fixture
def server(tiny_dir: Path) -> Iterator[Running]:
    running = Running(tiny_dir)
    yield running
    running.close()


def ask(server: Running, key: str, messages: list[dict[str, Any]]) -> tuple[int, Any]:
    body = {"model": "tiny", "messages": messages, "max_tokens": 4, "temperature": 0}
    status, content, _ = server.ask("POST", "/v1/chat/completions", json.dumps(body).encode(), key)
    return status, content


def hits(server: Running) -> tuple[int, int]:
    """Tokens found in blocks, and features found in the vision cache."""
    return server.engine.scheduler.found_tokens, server.engine.vision_cache.statistics.hits


def raw(server: Running, start: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(start)
    return connection


def post(body: dict[str, Any], length: int | None = None) -> bytes:
    content = json.dumps({"model": "tiny", **body}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    return f"{head}Content-Length: {length or len(content)}\r\n\r\n".encode() + content


def closed(connection: socket.socket) -> bytes:
    """What still comes until the server closes the connection."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


def free(server: Running) -> bool:
    gate, pool = server.app.state.gate, server.engine.pool
    return not server.engine.busy and not gate.under_way and not gate.room.held and pool.available == pool.count


@pytest.mark.parametrize(
    "messages", [[{"role": "user", "content": "count to nine " * 20}], words("x", url(picture(1)))]
)
def test_a_key_finds_nothing_of_another(server: Running, messages: list[dict[str, Any]]) -> None:
    first = ask(server, KEY, messages)[1]["choices"]
    before = hits(server)
    assert ask(server, "other", messages)[1]["choices"] == first
    assert hits(server) == before
    assert ask(server, KEY, messages)[1]["choices"] == first
    assert hits(server)[0] > before[0]


def test_a_picture_of_another_key_is_encoded_again(server: Running) -> None:
    ask(server, KEY, words("one", url(picture(1))))
    ask(server, "other", words("another", url(picture(1))))
    assert server.engine.vision_cache.statistics.hits == 0
    assert server.engine.vision_cache.statistics.misses == 2
    ask(server, KEY, words("another", url(picture(1))))
    found_blocks = server.engine.scheduler.found_tokens
    assert server.engine.vision_cache.statistics.hits or found_blocks


def test_a_cache_may_be_shared(tiny_dir: Path) -> None:
    server = Running(tiny_dir, serving={"share_cache": True})
    try:
        ask(server, KEY, words("x", url(picture(1))))
        assert hits(server)[0] == 0
        ask(server, "other", words("x", url(picture(1))))
        assert hits(server)[0] > 0
    finally:
        server.close()


def test_a_salt_is_of_the_key_and_of_this_server() -> None:
    gate = Gate(["a", "b"])
    a, b = gate.tenant("Bearer a"), gate.tenant("bearer b")
    assert a
    assert b
    assert a != b
    assert gate.tenant("Bearer a") == a
    assert gate.tenant("Bearer c") is gate.tenant("Basic a") is gate.tenant("") is gate.tenant("Bearer é") is None
    assert Gate(["a"]).tenant("Bearer a") != a
    assert Gate().tenant("") == Gate().tenant("Bearer what") == ""


@pytest.mark.parametrize("keys", [[""], ["a", " "]])
def test_an_empty_key_is_none(keys: list[str]) -> None:
    """Whoever sends nothing would have it."""
    with pytest.raises(ValueError, match="a key is empty"):
        Gate(keys)
    with pytest.raises(ValueError, match="a key is empty"):
        create_app(Nodes(["http://127.0.0.1:1"]), keys)
    gate = Gate(["a"])
    nothing = base64.b64encode(b"name:").decode()
    for sent in ("", "Bearer", "Bearer ", "bearer  ", "Basic", f"Basic {nothing}"):
        assert gate.tenant(sent) is None


def test_a_key_may_have_so_many_requests_under_way(tiny_dir: Path) -> None:
    server = Running(tiny_dir, serving={"max_per_key": 1})
    try:
        stream = server.client.chat.completions.create(
            model="tiny", messages=ONE, max_tokens=2000, temperature=0, stream=True
        )  # type: ignore[arg-type]
        next(iter(stream))
        status, content, headers = server.ask("POST", "/v1/chat/completions", b"{}")
        assert status == 429
        assert content["error"] == {
            "message": "too many requests of this key are under way",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limited",
        }
        assert headers["retry-after"] == "1"
        assert ask(server, "other", ONE)[0] == 200
        assert server.ask("GET", "/v1/models")[0] == 200
        stream.close()
        wait(lambda: free(server), 60)
        assert ask(server, KEY, ONE)[0] == 200
    finally:
        server.close()


def test_what_requests_hold_together_has_a_limit(server: Running) -> None:
    wait(lambda: free(server), 60)
    gate: Gate = server.app.state.gate
    gate.room.limit = 100_000
    large = json.dumps({"model": "tiny", "messages": ONE, "user": "x" * 100_000}).encode()
    status, content, headers = server.ask("POST", "/v1/chat/completions", large)
    assert (status, content["error"]["code"], headers["retry-after"]) == (503, "server_overloaded", "1")
    assert ask(server, KEY, words("x", url(picture(1, (400, 400)).convert("L"))))[0] == 503  # pixels count, too
    assert ask(server, KEY, words("x", url(picture(1))))[0] == 200
    wait(lambda: not gate.room.held, 60)  # an answer is there a moment before its visit is over
    with gate.visit("") as visit:
        visit.hold(60_000)
        with pytest.raises(Full):
            visit.hold(60_000)
    assert (gate.room.held, gate.under_way) == (0, 0)


def test_no_key_takes_all_the_room() -> None:
    room = Room(1000)
    room.take("a", 500)
    with pytest.raises(TooMuch):
        room.take("a", 1)
    room.take("b", 250)
    for key in ("a", "b"):
        with pytest.raises(TooMuch):
            room.take(key, 1)
    room.take("c", 125)
    with pytest.raises(Full):
        room.take("d", 126)
    room.take("", 125)
    for key, size in (("a", 500), ("b", 250), ("c", 125), ("", 125)):
        room.give_back(key, size)
    assert room.held == 0
    room.take("", 1000)


def test_what_one_key_holds_leaves_room_for_others() -> None:
    gate = Gate(["a", "b"], max_held=1000)
    a, b = gate.tenant("Bearer a") or "", gate.tenant("Bearer b") or ""
    with gate.visit(a) as one, gate.visit(a) as two, gate.visit(b) as other:
        one.hold(400)
        with pytest.raises(TooMuch):
            two.hold(150)
        two.hold(100)
        other.hold(200)
    assert gate.room.held == 0
    only = Gate(["a"], max_held=1000)
    with only.visit(only.tenant("Bearer a") or "") as visit:
        visit.hold(1000)


def test_what_is_too_much_is_said_to_the_key(server: Running) -> None:
    gate: Gate = server.app.state.gate
    before, gate.room.limit = gate.room.limit, 300_000
    try:
        large = json.dumps({"model": "tiny", "messages": ONE, "user": "x" * 200_000}).encode()
        status, content, headers = server.ask("POST", "/v1/chat/completions", large)
        assert (status, content["error"]["code"], headers["retry-after"]) == (429, "rate_limited", "1")
    finally:
        gate.room.limit = before


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_client_that_leaves_frees_everything(server: Running, stream: bool, seconds: float) -> None:
    asked = {"messages": words("x", url(picture(1))), "max_tokens": 2000, "ignore_eos": True, "stream": stream}
    connection = raw(server, post(asked))
    if seconds:
        wait(lambda: server.engine.busy, 60)
        time.sleep(seconds)
    connection.close()
    wait(lambda: free(server), 60)
    assert server.service.metrics.finished.total() == 0
    assert ask(server, KEY, ONE)[0] == 200


def test_a_client_that_leaves_in_its_body_frees_everything(server: Running) -> None:
    connection = raw(server, post({"messages": ONE}, length=10_000_000))
    wait(lambda: server.app.state.gate.under_way == 1, 60)
    connection.close()
    wait(lambda: free(server), 60)


def test_a_client_that_waits_in_the_queue_and_leaves_is_given_up(tiny_dir: Path) -> None:
    server = Running(tiny_dir, max_batch=1)
    try:
        first = server.client.chat.completions.create(
            model="tiny", messages=ONE, max_tokens=2000, temperature=0, stream=True
        )  # type: ignore[arg-type]
        next(iter(first))
        connection = raw(server, post({"messages": ONE, "max_tokens": 2000}))
        wait(lambda: len(server.engine.scheduler.waiting) == 1, 60)
        connection.close()
        wait(lambda: not server.engine.scheduler.waiting, 60)
        assert len(server.engine.scheduler.running) == 1  # it was not its turn that told
        first.close()
    finally:
        server.close()


def test_bodies_that_come_slowly_end(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "SECONDS", 0.3)
    monkeypatch.setattr(listen.Connection, "head_seconds", 0.3)
    connection = raw(server, post({"messages": ONE}, length=10_000))
    answer = closed(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"the body took too long to come"' in answer
    wait(lambda: free(server), 60)


def test_heads_that_come_slowly_end(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen.Connection, "head_seconds", 0.3)
    assert closed(raw(server)) == b""
    assert closed(raw(server, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")) == b""
    connection = raw(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while b"ok\n" not in answer:
        answer += connection.recv(65536)
    connection.sendall(b"GET /health HT")
    assert closed(connection) == b""


def test_a_body_that_nobody_wants_ends(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen.Connection, "head_seconds", 0.5)
    connection = raw(server, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            connection.sendall(b"x" * 1000)
            time.sleep(0.01)
    except ConnectionError:
        return
    pytest.fail("the server reads on and on")


def test_connections_have_a_limit(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen.Connection, "most", 3)
    wait(lambda: not server.server.server_state.connections, 60)
    held = [raw(server) for _ in range(3)]
    wait(lambda: len(server.server.server_state.connections) == 3, 60)
    assert closed(raw(server)) == b""
    held.pop().close()
    wait(lambda: len(server.server.server_state.connections) == 2, 60)
    assert server.ask("GET", "/health")[0] == 200


def test_a_client_that_does_not_read_is_let_go(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen.Connection, "stalled_seconds", 0.5)
    for site in server.server.servers:
        for one in site.sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # those it accepts inherit it
    options = {"max_tokens": 60, "n": 8, "logprobs": True, "top_logprobs": 20, "stream": True, "temperature": 1}
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(post({"messages": ONE, **options}))
    wait(lambda: server.engine.busy, 60)
    assert ask(server, "other", ONE)[0] == 200  # nobody else waits for it
    wait(lambda: free(server), 100)
    assert b"[DONE]" not in closed(connection)


def test_of_what_was_not_read_only_the_last_is_kept(tiny_dir: Path) -> None:
    import asyncio

    from open4ov.engine import Request
    from open4ov.sample import user

    server = Running(tiny_dir)

    async def slow() -> list[int]:
        updates = server.service.submit(Request([user("one")], max_tokens=200, temperature=1, seed=3))
        first = await anext(updates)
        while server.engine.busy:
            await asyncio.sleep(0.01)
        rest = [update async for update in updates]
        assert rest[-1].completion is not None
        assert rest[-1].token_ids[: len(first.token_ids)] == first.token_ids
        return [len(update.token_ids) for update in rest]

    try:
        assert len(asyncio.run(slow())) <= 2
    finally:
        server.close()


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_clocks_that_jump_change_nothing(server: Running, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    options = {"max_tokens": 16, "temperature": 0, "messages": ONE}
    expected = server.post(**options)[1]["choices"][0]["message"]["content"]
    now, turns = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now() + (jump if next(turns) % 2 else 0))
    text = ""
    for piece in server.client.chat.completions.create(model="tiny", stream=True, **options):  # type: ignore[call-overload]
        text += piece.choices[0].delta.content or ""
    assert text == expected
    assert server.post(**options)[1]["choices"][0]["message"]["content"] == expected
    counted = server.service.metrics.request_seconds
    assert sum(counted.counts) == 3
    assert 0 < counted.total < 1e6


def test_headers_without_end_are_refused_in_the_same_shape(server: Running) -> None:
    for flood in (b"X-A: b\r\n" * 20_000, b"X-A: " + b"b" * 200_000 + b"\r\n", b"no header at all\r\n"):
        connection = raw(server)
        try:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + flood + b"\r\n")
        except ConnectionError:
            continue
        answer = closed(connection)
        if answer:  # a reset may overtake it
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    assert server.ask("GET", "/health")[0] == 200


class Served:
    """`open4ov serve` in a process of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port = unused.getsockname()[1]
        command = [sys.executable, "-m", "open4ov.cli", "serve", str(directory), "--name", "tiny"]
        command += ["--port", str(self.port), "--keep-degenerate"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPEN4OV_API_KEYS": KEY}
        self.process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)
        self.client = openai.OpenAI(api_key=KEY, base_url=f"http://127.0.0.1:{self.port}/v1", max_retries=0)
        wait(self.answers, 120)

    def answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return bool(self.client.models.list().data)
        except openai.APIConnectionError:
            return False

    def workers(self) -> list[int]:
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(word) for file in threads for word in file.read_text().split()]

    def count(self, tokens: int) -> Any:
        asked: Any = {"model": "tiny", "messages": ONE, "temperature": 0, "stream": True}
        return self.client.chat.completions.create(max_tokens=tokens, **asked)


def test_a_server_that_ends_finishes_what_is_under_way_and_refuses_the_rest(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a first SIGTERM does, without the signal: of a process see below."""
    server = Running(tiny_dir)
    step, go = server.engine.step, threading.Event()
    decoder = server.app.state.pictures.decoder
    wait(lambda: bool(decoder.processes), 60)
    workers = decoder.processes

    def slow() -> Any:
        if server.engine.scheduler.running:  # the first token has been given
            go.wait(60)
        return step()

    monkeypatch.setattr(server.engine, "step", slow)
    asked: Any = {"model": "tiny", "messages": ONE, "temperature": 0, "max_tokens": 30}
    with server.client.chat.completions.create(stream=True, **asked) as stream:
        chunks = iter(stream)
        next(chunks)
        server.server.handle_exit(signal.SIGTERM, None)
        status, content, headers = server.ask("POST", "/v1/chat/completions", json.dumps(asked).encode())
        assert (status, content["error"]["code"], headers["retry-after"]) == (503, "server_ending", "5")
        go.set()
        assert list(chunks)[-1].choices[0].finish_reason == "length"
    server.thread.join(60)
    assert not server.thread.is_alive()
    wait(lambda: not any(process_runs(process) for process in workers), 60)
    server.service.stop()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_on_sigterm_a_stream_under_way_ends_and_new_requests_are_refused(tiny_dir: Path) -> None:
    served = Served(tiny_dir)
    try:
        wait(lambda: len(served.workers()) >= 1, 60)
        workers = served.workers()
        stream = iter(served.count(1500))
        next(stream)
        served.process.send_signal(signal.SIGTERM)
        refused: list[openai.APIStatusError] = []

        def refuse() -> None:
            try:
                served.count(1)
            except openai.APIStatusError as error:
                refused.append(error)

        wait(lambda: refuse() or bool(refused), 60)
        assert refused[0].status_code == 503
        assert refused[0].response.headers["retry-after"] == "5"
        assert refused[0].body["code"] == "server_ending"  # type: ignore[index,call-overload]
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason == "length"
        _, told = served.process.communicate(timeout=60)
        assert served.process.returncode == 0
        assert "Traceback" not in told
        wait(lambda: not any(process_runs(process) for process in workers), 60)
    finally:
        served.process.kill()
        served.process.wait()


@pytest.mark.slow
def test_the_end_is_not_put_off_forever(tiny_dir: Path) -> None:
    served = Served(tiny_dir, "--drain-seconds", "0")
    try:
        stream = iter(served.count(2000))
        next(stream)
        served.process.send_signal(signal.SIGTERM)
        threading.Thread(target=lambda: [None for _ in _until_broken(stream)], daemon=True).start()
        served.process.communicate(timeout=120)
        assert served.process.returncode == 0
    finally:
        served.process.kill()
        served.process.wait()


def _until_broken(stream: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from stream
    except Exception:
        return
