"""A real HTTP server on this machine that speaks the chat-completions protocol; what it answers is the test's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import uvicorn

from open4ov.engine import Engine
from open4ov.engine.service import Service
from open4ov.engine.serving.server import create_app
from open4ov.model import Processor, Qwen3VL

Reply = Callable[[dict[str, Any], int], str | int]
"""(request body, how many came before) → the assistant's text, or an HTTP status to fail with."""


class Endpoint:
    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []


@contextmanager
def endpoint(reply: Reply) -> Iterator[Endpoint]:
    seen, lock = Endpoint(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(seen.bodies)
                seen.bodies.append(body)
                seen.keys.append(self.headers["Authorization"])
            answer = reply(body, number)
            if isinstance(answer, int):
                status, payload = answer, {"error": {"message": "refused", "type": "test"}}
            else:
                message = {"role": "assistant", "content": answer}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                status = 200
                payload = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            data = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(directory: Path, name: str) -> Iterator[str]:
    """Our own server over a model's folder, on a free port; gives its address."""
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
