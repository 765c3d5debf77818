"""Times to the first token, over HTTP: a second turn, a session whose picture came earlier, and stages as processes
under load. Part of `python -m bench.serve`."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.engines import WORDS, build
from bench.load import message, url
from bench.running import Server, serving

AHEAD = 2.0
"""Seconds by which a session's pictures come before its question"""


def turns(folder: Path, rounds: int) -> str:
    """First turn and second turn; one-shot and session; four pictures that are new each time."""
    lines = ["| model | what | one-shot, ms | then, ms | ratio (median of pairs) |", "|---|---|---|---|---|"]
    for kind in ("nano", "60M"):
        lines += [f"| {kind} {row}" for row in _turns(build(kind, folder), rounds)]
    return "\n".join(lines)


def _turns(directory: Path, rounds: int) -> list[str]:
    first, second, whole, session = list[float](), list[float](), list[float](), list[float]()
    with serving(directory, "--keep-degenerate") as server:
        for number in range(-1, 4 * rounds):
            pictures = [url(1000 + 8 * number + place, 128, 128) for place in range(4)]
            one = message("What do these four have in common?", *pictures)
            answered, text = _stream(server, one)
            more = [*one, {"role": "assistant", "content": text}, *message("And what is different?")]
            again, _ = _stream(server, more)
            others = [url(5000 + 8 * number + place, 128, 128) for place in range(4)]
            early = _session(server, others, "Which of them is the brightest?")
            fresh = [url(9000 + 8 * number + place, 128, 128) for place in range(4)]
            at_once, _ = _stream(server, message("Which of them is the brightest?", *fresh))
            if number >= 0:  # the first warms up
                first.append(answered)
                second.append(again)
                whole.append(at_once)
                session.append(early)
    return [
        _row("second turn about the same four pictures", first, second),
        _row(f"session: pictures {AHEAD:g} s before the question", whole, session),
    ]


def _row(title: str, before: list[float], after: list[float]) -> str:
    found = statistics.median(b / a for a, b in zip(before, after, strict=True))
    return f"| {title} | {1000 * statistics.median(before):.0f} | {1000 * statistics.median(after):.0f} | {found:.2f} |"


def stages(folder: Path, clients: int = 16, seconds: float = 40.0) -> str:
    """Image-heavy requests at one pace: one process with two threads, and 1 encode, 1 prefill and 1 decode process of a
    thread each, on the same cores."""
    lines = [
        "| model | layout | requests | TTFT p50, ms | p99, ms | between tokens p99, ms | tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ("nano", "60M"):
        directory = build(kind, folder)
        layouts: dict[str, tuple[tuple[str, ...], int]] = {
            "one process, one thread": ((), 1),
            "one process, two threads": ((), 2),
            "1 encode, 1 prefill, 1 decode": (("--encode-workers", "1", "--prefill-workers", "1"), 1),
        }
        for title, (options, threads) in layouts.items():
            with serving(directory, "--keep-degenerate", *options, threads=threads) as server:
                _stream(server, message("Warm up.", url(1)))
                firsts, gaps, tokens, took = _under_load(server, clients, seconds)
            lines.append(
                f"| {kind} | {title} | {len(firsts)} | {1000 * statistics.median(firsts):.0f} | {_late(firsts)} | "
                f"{_late(gaps)} | {tokens / took:.0f} |"
            )
    return "\n".join(lines) + f"\n\n{clients} clients, {seconds:g} s, two new pictures of 128 x 128 and 24 tokens each."


def _late(seconds: list[float]) -> str:
    return f"{1000 * statistics.quantiles(seconds, n=100)[-1]:.0f}"


def _under_load(server: Server, clients: int, seconds: float) -> tuple[list[float], list[float], int, float]:
    firsts, gaps, tokens = list[float](), list[float](), [0]
    began = time.monotonic()

    def client(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < began + seconds:
            text = " ".join(rng.choice(WORDS) for _ in range(20))
            asked = message(text, *(url(rng.randrange(2**31), 128, 128) for _ in range(2)))
            start = last = time.monotonic()
            for place, _ in enumerate(_events(server, {"messages": asked, "max_tokens": 24, "ignore_eos": True})):
                now = time.monotonic()
                (gaps if place else firsts).append(now - (last if place else start))
                last = now
                tokens[0] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return firsts, gaps, tokens[0], time.monotonic() - began


def _stream(server: Server, messages: list[Any]) -> tuple[float, str]:
    """Seconds to the first piece of text, and all of it."""
    began, first, text = time.perf_counter(), 0.0, ""
    for piece in _events(server, {"messages": messages, "max_tokens": 24}):
        first = first or time.perf_counter() - began
        text += piece
    return first or time.perf_counter() - began, text


def _session(server: Server, pictures: list[str], text: str) -> float:
    """Seconds from commit to the first piece of text; the pictures came AHEAD seconds before."""
    number = _post(server, "/v1/sessions", {"model": "model", "temperature": 0, "max_tokens": 24})["id"]
    for one in pictures:
        _post(server, f"/v1/sessions/{number}/images", {"url": one})
    time.sleep(AHEAD)
    _post(server, f"/v1/sessions/{number}/text", {"append": text})
    began, first = time.perf_counter(), 0.0
    for _ in _events(server, {"stream": True}, f"/v1/sessions/{number}/commit"):
        first = first or time.perf_counter() - began
    request = urllib.request.Request(f"{server.url}/v1/sessions/{number}", method="DELETE")
    urllib.request.urlopen(request, timeout=60).close()
    return first


def _post(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with _open(server, path, body) as answer:
        return json.loads(answer.read())


def _events(server: Server, body: dict[str, Any], path: str = "/v1/chat/completions") -> Iterator[str]:
    """The pieces of a streamed answer's text, as they come."""
    if path == "/v1/chat/completions":
        body = {"model": "model", "stream": True, "temperature": 0, **body}
    with _open(server, path, body) as answer:
        for line in answer:
            content = line.decode().removeprefix("data: ").strip()
            if not content or content == "[DONE]":
                continue
            event = json.loads(content)
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            for choice in event["choices"]:
                if choice["delta"].get("content"):
                    yield choice["delta"]["content"]


def _open(server: Server, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{server.url}{path}", json.dumps(body).encode(), method="POST")
    return urllib.request.urlopen(request, timeout=600)
