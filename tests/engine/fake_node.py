"""A server of raw bytes that does exactly what a test says, and a router over such servers."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from open4ov.engine.routing import listen
from open4ov.engine.routing.affinity import key_of
from open4ov.engine.routing.nodes import Nodes
from open4ov.engine.routing.router import create_app


@dataclass
class Asked:
    """A request as it came. `connection`: where the answer goes, byte by byte."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: socket.socket

    def send(self, content: bytes) -> None:
        self.connection.sendall(content)

    def left(self) -> bool:
        """Waits until the client's side is closed."""
        self.connection.settimeout(60)
        try:
            return self.connection.recv(1) == b""
        except ConnectionError:
            return True


Behaviour = Callable[[Asked], None]
CLOSE = "connection: close"
"""What a node says that closes after its answer: without it the next request may be sent there"""


def answer(status: int, content: bytes, *headers: str, kind: str = "application/json") -> Behaviour:
    own = [f"content-type: {kind}", f"content-length: {len(content)}", CLOSE]
    lines = [f"HTTP/1.1 {status} Said", *own, *headers, "", ""]
    return lambda asked: asked.send("\r\n".join(lines).encode() + content)


def said(content: str) -> Behaviour:
    """A chat completion of this text."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    whole = {"id": "c", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [choice]}
    return answer(200, json.dumps(whole).encode(), "x-request-id: req-of-node", "x-secret: 1")


def event(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "tiny", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    + CLOSE.encode()
    + b"\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def streamed(pieces: Iterable[bytes], end: bytes = b"0\r\n\r\n") -> Behaviour:
    return lambda asked: asked.send(HEAD + b"".join(map(chunk, pieces)) + end)


def break_off(asked: Asked) -> None:
    """The connection is reset, as when a process is killed."""
    asked.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class FakeNode:
    """Listens on a free port. `behaviour`: of all but `/health`, which is `health`'s."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.behaviour: Behaviour = answer(500, b"{}")
        self.health: Behaviour = answer(200, b"ok")
        node = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(ConnectionError, ValueError):
                    node._handle(self.rfile, self.connection)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        self._server_type, self._handler = Server, Handler
        self.port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server = self._server_type(("127.0.0.1", self.port), self._handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Connections are refused from now on."""
        self.server.shutdown()
        self.server.server_close()

    def _handle(self, source: Any, connection: socket.socket) -> None:
        method, path, _ = source.readline().decode().split(" ")
        headers = dict[str, str]()
        while line := source.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        asked = Asked(method, path, headers, source.read(int(headers.get("content-length", 0))), connection)
        if path == "/health":
            return self.health(asked)
        self.asked.append(asked)
        self.behaviour(asked)


class RunningRouter:
    """A router over fake nodes, in a thread of this process."""

    def __init__(
        self,
        fakes: list[FakeNode],
        keys: tuple[str, ...] = (),
        node_key: str | None = None,
        timeout: float = 30.0,
        patience: float = 0.0,
    ) -> None:
        self.fakes = fakes
        self.nodes = Nodes([fake.url for fake in fakes], interval=0.2, timeout=timeout, patience=patience)
        app = create_app(self.nodes, keys, node_key)
        self.app = app
        self.server = listen.server(app, "127.0.0.1", 0, 1)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, content, headers or {})
        got = connection.getresponse()
        text = got.read()
        connection.close()
        try:
            found = json.loads(text)
        except ValueError:
            found = text.decode()
        return got.status, found, {name.lower(): value for name, value in got.getheaders()}

    def chat(self, session: str, **options: object) -> tuple[int, Any, dict[str, str]]:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], **options}
        return self.ask("POST", "/v1/chat/completions", body, {"x-session-id": session})

    def session(self, *order: FakeNode) -> str:
        """A session whose nodes come in this order (the first ones given)."""
        urls = [fake.url for fake in order]
        for number in range(10_000):
            key = key_of(f"s{number}", b"")
            assert key is not None
            if self.nodes._ring.order(key.digest)[: len(urls)] == urls:
                return f"s{number}"
        raise AssertionError("no such session")

    def metric(self, name: str, **labels: str) -> int:
        """The sum over the lines that have these labels."""
        lines = self.ask("GET", "/metrics")[1].splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [
            line for line in lines if line.startswith(f"open4ov:router_{name}{{") and all(w in line for w in wanted)
        ]
        return sum(int(line.rpartition(" ")[2]) for line in found)

    def renew(self) -> None:
        """As at the start, but for what it counts by affinity."""
        wait(lambda: all(node.healthy and not node.in_flight for node in self.nodes.all.values()))
        for fake, node in zip(self.fakes, self.nodes.all.values(), strict=True):
            fake.asked.clear()
            fake.health = answer(200, b"ok")
            fake.behaviour = said("abc"[self.fakes.index(fake)])
            node.failures.clear()
            node.requests = node.retries = node.in_row = 0

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        for fake in self.fakes:
            fake.stop()


def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
