"""A chat-completions endpoint as a process of its own, for `bench/data.py`: as quick as Python allows, with a latency,
a number of places and times at which it refuses everything, if asked for.

    python -m bench.endpoint PORT [--latency 0.2] [--places 32] [--closed-every 10 --closed-for 1] [--refuse 0.01]
        [--retry-after 1]

GET anything: counts as JSON. POST: a judgement, after the latency, or a 429 at once as hosted endpoints send it: with
Retry-After in whole seconds, Retry-After-Ms exactly, and an error of the usual words.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PERSON = '{"name": "Jason", "age": 25}'
ANSWER = '{"score": 1, "reason": "The topic fits the question, and the answer is right for this image."}'


def _http(status: str, body: bytes, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def _completion(content: str | None, tool: str | None = None) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if tool is not None:
        called = {"name": "Judgement", "arguments": tool}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": called}]
    choice = {"index": 0, "message": message, "finish_reason": "stop" if tool is None else "tool_calls"}
    usage = {"prompt_tokens": 300, "completion_tokens": 25, "total_tokens": 325}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(whole).encode()


class Endpoint:
    """Its settings and counts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.began, self.rng = options, time.monotonic(), random.Random(0)
        self.good = _http("200 OK", _completion(ANSWER))
        self.called = _http("200 OK", _completion(None, ANSWER))  # for distilabel, which asks for a call of a tool
        self.person = _http("200 OK", _completion(PERSON))  # for what Curator tries first
        self.counts = {"answered": 0, "refused": 0, "most": 0, "open_seconds": 0.0}
        self.open, self.changed = 0, self.began

    def turn(self, step: int) -> None:
        """One more is open, or one less."""
        now = time.monotonic()
        self.counts["open_seconds"] += self.open * (now - self.changed)
        self.open, self.changed = self.open + step, now
        self.counts["most"] = max(self.counts["most"], self.open)

    def refusal(self) -> bytes | None:
        """A 429 and when to come again, or nothing."""
        options, wait = self.options, 0.0
        if options.closed_every:
            phase = (time.monotonic() - self.began) % options.closed_every
            wait = max(0.0, phase - (options.closed_every - options.closed_for))
            wait = options.closed_every - phase if wait else 0.0
        if self.open >= options.places or self.rng.random() < options.refuse:
            wait = options.retry_after
        if not wait:
            return None
        told = {"message": f"Rate limit reached for m. Please try again in {wait:.1f}s.", "type": "requests",
                "param": None, "code": "rate_limit_exceeded"}  # fmt: skip
        after = (f"Retry-After: {math.ceil(wait)}", f"Retry-After-Ms: {math.ceil(1000 * wait)}")
        return _http("429 Too Many Requests", json.dumps({"error": told}).encode(), *after)


class Connection(asyncio.Protocol):
    """One client's connection: requests one after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.received = endpoint, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        if head.startswith(b"GET"):
            self.received = b""
            self.transport.write(_http("200 OK", json.dumps(self.endpoint.counts).encode()))
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return
        self.received = rest[length:]
        endpoint = self.endpoint
        good = endpoint.called if b'"tools"' in rest else endpoint.person if b'"User"' in rest else endpoint.good
        self._answer(good)

    def _answer(self, good: bytes) -> None:
        endpoint = self.endpoint
        refused = endpoint.refusal()
        if refused is not None:
            endpoint.counts["refused"] += 1
            self.transport.write(refused)
            return
        endpoint.turn(1)
        if endpoint.options.latency:
            asyncio.get_running_loop().call_later(endpoint.options.latency, self._done, good)
        else:
            self._done(good)

    def _done(self, good: bytes) -> None:
        self.endpoint.turn(-1)
        self.endpoint.counts["answered"] += 1
        self.transport.write(good)


@contextmanager
def endpoint(**options: float) -> Iterator[str]:
    """The endpoint under way on a free port, as a process of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    named = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    process = subprocess.Popen([sys.executable, "-m", "bench.endpoint", str(port), *named])
    try:
        for _ in range(600):
            try:
                counts(f"http://127.0.0.1:{port}/v1")
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def counts(url: str) -> dict[str, float]:
    """What the endpoint has answered and refused, the most it had open, and how many it had open, summed over time."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


async def _serve(options: argparse.Namespace) -> None:
    state = Endpoint(options)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(state), "127.0.0.1", options.port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--places", type=float, default=float("inf"), help="requests open at once; others get a 429")
    parser.add_argument("--closed-every", type=float, default=0.0, help="seconds")
    parser.add_argument("--closed-for", type=float, default=1.0, help="seconds at the end of each of those")
    parser.add_argument("--refuse", type=float, default=0.0, help="share of requests that get a 429 at random")
    parser.add_argument("--retry-after", type=float, default=1.0, help="seconds")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
