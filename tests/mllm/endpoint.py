"""A real HTTP server on this machine that speaks the chat-completions protocol; what it answers is the test's.

`FAULTS` are the ways in which an endpoint can fail: a test's `reply` returns one of them instead of a text.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Raw:
    """A reply as it goes over the wire. `hang`: nothing comes until the server ends. `breaks_at`: the connection is
    closed after so many bytes of the body. `drip`: seconds between single bytes."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    hang: bool = False
    breaks_at: int | None = None
    drip: float | None = None


Reply = Callable[[dict[str, Any], int], str | int | Raw]
"""(request body, how many came before) → the assistant's text, an HTTP status to fail with, or a raw reply."""


def completion(text: str | None, usage: Any = None, finish: str = "stop", **message: Any) -> bytes:
    """A chat completion; `usage`: (prompt tokens, completion tokens), or whatever an endpoint may send there."""
    said = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish}
    payload = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return json.dumps(payload | ({} if usage is None else {"usage": usage})).encode()


def limited(after: str | None, body: bytes = b'{"error": {"code": "rate_limit_exceeded", "message": "slow"}}') -> Raw:
    """A 429, with what it says in Retry-After."""
    return Raw(body, 429, {"Content-Type": "application/json"} | ({"Retry-After": after} if after else {}))


_OK = '{"score": 1, "reason": "fine"}'
_HTML = {"Content-Type": "text/html; charset=utf-8"}
_PIECE = b"<html><body>Sign in to go on</body></html>"
FAULTS: dict[str, Raw] = {
    "limited": limited("0"),
    "error_500": Raw(b"oops", 500, {"Content-Type": "text/plain"}),
    "error_503": Raw(b"{}", 503, {"Content-Type": "application/json", "Retry-After": "0"}),
    "error_400": Raw(b'{"error": {"code": "context_length_exceeded", "message": "too long"}}', 400),
    "hang": Raw(hang=True),
    "drip": Raw(completion(_OK), drip=0.1),
    "close": Raw(completion(_OK), breaks_at=40),
    "close_at_once": Raw(completion(_OK), breaks_at=-1),
    "redirect": Raw(b"", 307, {"Location": "http://elsewhere.invalid/v1/chat/completions?token=of-theirs"}),
    "html": Raw(_PIECE, 200, _HTML),
    "html_called_json": Raw(_PIECE),
    "plain": Raw(b"hello", 200, {"Content-Type": "text/plain"}),
    "empty": Raw(b""),
    "truncated_reply": Raw(completion(_OK)[:60]),
    "nested": Raw(b"[" * 200_000),
    "array": Raw(b"[1, 2]"),
    "no_choices": Raw(b'{"id": "x", "choices": []}'),
    "odd_choices": Raw(b'{"id": "x", "choices": 7}'),
    "null_text": Raw(completion(None)),
    "blank_text": Raw(completion(" \n")),
    "truncated": Raw(completion('{"score": 1, "reason": "brea')),
    "words": Raw(completion("The sample looks fine to me.")),
    "schema": Raw(completion('{"score": 7, "reason": "fine", "more": 1}')),
    "refusal": Raw(completion(None, refusal="I will not")),
    "filtered": Raw(completion("", finish="content_filter")),
    "refusal_in_words": Raw(completion("I'm sorry, but I can't help with that.")),
    "refusal_in_chinese": Raw(completion("抱歉，我无法回答这个问题。")),
    "cut": Raw(completion('{"score": 1, "reason": "and so on and', finish="length")),
    "long_text": Raw(completion(json.dumps({"score": 1, "reason": "x" * 200_000}))),
    "unknown_labels": Raw(completion('{"description": "d", "domain": ["Zoo", "Others"], "ability": ["Others"]}')),
    "duplicated_ranks": Raw(completion('{"description": "d", "domain": ["Others", "others "], "ability": ["Others"]}')),
    "wrong_language": Raw(
        completion(
            json.dumps(
                {
                    "pairs": [
                        {
                            "topic": "t",
                            "task": "naming",
                            "language": "fr",
                            "question": "Quoi?",
                            "answer": "a",
                            "aliases": [],
                            "response": "r",
                        }
                    ]
                }
            )
        )
    ),
    "huge": Raw(b" " * (9 * 2**20) + completion(_OK)),
    "gzip": Raw(b"\x1f\x8b" + b"0" * 100, 200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
}

EXPECTED: dict[str, tuple[str, int]] = {
    "limited": ("rate_limited", 4),
    "error_500": ("server_error", 2), "error_503": ("overloaded", 2), "error_400": ("http_400", 1),
    "hang": ("timeout", 2), "drip": ("timeout", 2), "close": ("closed", 2), "close_at_once": ("closed", 2),
    "redirect": ("redirect", 1), "html": ("html", 2), "html_called_json": ("html", 2), "plain": ("not_json", 2),
    "empty": ("empty", 2), "truncated_reply": ("truncated", 2), "nested": ("truncated", 2),
    "array": ("empty", 2), "no_choices": ("empty", 2), "odd_choices": ("empty", 2),
    "null_text": ("empty", 2), "blank_text": ("empty", 2),
    "truncated": ("truncated", 2), "words": ("not_json", 2), "schema": ("schema", 2),
    "refusal": ("refusal", 1), "filtered": ("refusal", 1), "refusal_in_words": ("refusal", 2),
    "refusal_in_chinese": ("refusal", 2), "cut": ("cut", 1), "long_text": ("huge", 1), "huge": ("huge", 1),
    "gzip": ("encoding", 1),
}  # fmt: skip
"""fault: (its kind, the requests that a question takes with one retry)"""
CONTENT = {"unknown_labels", "duplicated_ranks", "wrong_language"}
"""Those of the right form that say what cannot be; which kind that is depends on what was asked"""


class Endpoint:
    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.ended = threading.Event()


@contextmanager
def endpoint(reply: Reply) -> Iterator[Endpoint]:
    seen, lock = Endpoint(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = self.rfile.read(length := int(self.headers["Content-Length"]))
            if len(told) < length:  # the client was killed in the middle of its question
                return
            body = json.loads(told)
            with lock:
                number = len(seen.bodies)
                seen.bodies.append(body)
                seen.keys.append(self.headers["Authorization"])
            answer = reply(body, number)
            if isinstance(answer, int):
                answer = Raw(b'{"error": {"message": "refused", "type": "test"}}', answer)
            elif isinstance(answer, str):
                answer = Raw(completion(answer))
            if answer.hang:
                seen.ended.wait(60)
                return
            if answer.breaks_at == -1:
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            try:
                if answer.drip is None:
                    self.wfile.write(answer.body[: answer.breaks_at])
                else:
                    for place in range(len(answer.body)):
                        self.wfile.write(answer.body[place : place + 1])
                        self.wfile.flush()
                        if seen.ended.wait(answer.drip):
                            return
            except OSError:  # the client has gone
                return

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield seen
    finally:
        seen.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(directory: Path, name: str) -> Iterator[str]:
    """Our own server over a model's folder, on a free port; gives its address."""
    import uvicorn  # here: what asks an endpoint of the test's needs no torch

    from open4ov.engine import Engine
    from open4ov.engine.server import create_app
    from open4ov.engine.service import Service
    from open4ov.model import Processor, Qwen3VL

    engine = Engine(Qwen3VL.from_pretrained(directory), Processor.from_pretrained(directory))
    service = Service(engine)
    server = uvicorn.Server(uvicorn.Config(create_app(service, name), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(30)
        service.stop()
