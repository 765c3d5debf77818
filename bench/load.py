"""A server under mixed requests for some minutes: nothing may fail that is not the client's fault, memory stays flat,
and all blocks come back. Part of `python -m bench.serve`."""

from __future__ import annotations

import base64
import io
import random
import threading
import time
from collections import Counter
from typing import Any

import openai

from bench.engines import WORDS, picture
from bench.running import Server, serving

CLIENTS = 64


def url(seed: int, width: int = 96, height: int = 96) -> str:
    """A picture as a data URL."""
    data = io.BytesIO()
    picture(seed, width, height).save(data, "png")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def message(text: str, *urls: str) -> list[Any]:
    """A user's message with pictures."""
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": one}} for one in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def load(minutes: float) -> str:
    """`CLIENTS` clients at once: questions with and without pictures, streams given up, long prompts, bad pictures."""
    counts: Counter[str] = Counter()
    samples: list[tuple[float, float]] = []
    with serving("nano", "--queue", "256") as server:
        end = time.monotonic() + 60 * minutes
        threads = [threading.Thread(target=_client, args=(server, number, end, counts)) for number in range(CLIENTS)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            time.sleep(5)
            samples.append((time.monotonic() - began, server.memory / 2**20))
        for thread in threads:
            thread.join()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and server.metrics()["num_requests_running"]:
            time.sleep(0.2)
        left = server.metrics()
    quarter = max(1, len(samples) // 4)
    early = max(memory for _, memory in samples[quarter : 2 * quarter])
    late = max(memory for _, memory in samples[-quarter:])
    wrong = {name: count for name, count in counts.items() if name.startswith("wrong")}
    lines = [
        f"{CLIENTS} clients for {minutes:g} minutes, nano, {left['generation_tokens_total']:.0f} tokens generated.",
        "",
        "| what | count |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in sorted(counts.items())),
        f"| resident memory: highest of the second quarter, of the last | {early:.0f} MiB, {late:.0f} MiB |",
        f"| blocks in use afterwards | {100 * left['kv_cache_usage_perc']:.1f} % |",
        f"| requests under way afterwards | {left['num_requests_running'] + left['num_requests_waiting']:.0f} |",
        f"| preempted | {left['num_preemptions_total']:.0f} |",
        f"| answers that were not as they should be | {sum(wrong.values())} |",
    ]
    return "\n".join(lines)


def _client(server: Server, number: int, end: float, counts: Counter[str]) -> None:
    rng, client = random.Random(number), server.client()
    kinds = {"text": 4, "picture": 6, "two pictures": 2, "long": 1, "given up": 3, "bad picture": 1, "too long": 1}
    while time.monotonic() < end:
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        try:
            result = _ask(client, kind, rng)
        except openai.APIStatusError as error:
            result = _expected(kind, error.status_code)
        except openai.APIError as error:
            result = f"wrong: {type(error).__name__} for {kind}"
        counts[result] += 1
        if result.startswith("503"):
            time.sleep(0.5)


def _expected(kind: str, status: int) -> str:
    if status == 400 and kind in ("bad picture", "too long"):
        return f"400, as it should be: {kind}"
    return "503: the queue is full" if status == 503 else f"wrong: {status} for {kind}"


def _ask(client: openai.OpenAI, kind: str, rng: random.Random) -> str:
    words = {"long": 900, "too long": 30_000}.get(kind, rng.randint(4, 40))
    text = " ".join(rng.choice(WORDS) for _ in range(words))
    shown = {"picture": 1, "two pictures": 2, "given up": 1}.get(kind, 0)
    urls = [url(rng.randrange(200)) for _ in range(shown)]
    if kind == "bad picture":
        urls = ["data:image/png;base64," + base64.b64encode(rng.randbytes(300)).decode()]
    asked: dict[str, Any] = {"model": "model", "messages": message(text, *urls), "max_tokens": rng.randint(8, 96)}
    if kind == "given up":
        stream = client.chat.completions.create(**asked, stream=True)
        for _ in range(rng.randint(0, 4)):
            next(stream, None)
        stream.close()
        return "stream given up"
    found = client.chat.completions.create(**asked, seed=rng.randrange(1000), temperature=rng.choice([0.0, 1.0]))
    good = found.choices[0].finish_reason in ("stop", "length", "repetition", "garbled")
    return f"answered: {kind}" if good else f"wrong: {found.choices[0].finish_reason} for {kind}"
