"""Data construction: what asking an endpoint costs beside the answers themselves. See `--help`.

    python -m bench.data [--only overhead,concurrency,clients] [--rounds 9] [--peer-python .venv-peers/bin/python]

overhead: `ask_many` against the bare `openai` client at zero latency, a new question each time, with kept answers and
the book of costs on disk; milliseconds a request above it. concurrency: the share of the ideal at 200 ms latency with
429s, of four kinds. clients: the official client in threads and on asyncio. The endpoint is a process of its own
(`bench/endpoint.py`), on the same cores. Peers: distilabel and Bespoke Curator, from an environment of their own with
both (`pip install 'distilabel[openai]' bespokelabs-curator`), if `--peer-python` names its interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai

from bench.endpoint import counts, endpoint
from bench.measure import in_turn, machine, write
from open4ov.mllm import Asker, Prompt, Request
from open4ov.mllm.answers import Judgement
from open4ov.mllm.reply import schema
from open4ov.recipe import DataSection, ProviderSection

PARTS = ("overhead", "concurrency", "clients")
PEERS = ("distilabel", "curator")
REQUESTS = 400
"""In one round"""
LATENCY = 0.2
numbers = itertools.count()


def values() -> dict[str, Any]:
    """A question that was never asked before."""
    return {
        "topic": "Counting ~ Object counting ~ Counting dogs",
        "question": f"How many? {next(numbers)}",
        "answer": "2",
    }


def asker(url: str, concurrency: int, place: Path | None) -> Asker:
    settings = ProviderSection(
        kind="openai", base_url=url, model="m", api_key_env="OPEN4OV_BENCH_KEY", concurrency=concurrency
    )
    return Asker(DataSection(providers={"default": settings}), place=place)


def ours(asking: Asker, requests: int) -> None:
    asked = [Request("judge_1", Prompt("judge", values()), (), Judgement) for _ in range(requests)]
    failed = [one for one in asking.ask_many(asked) if not isinstance(one, dict)]
    assert not failed, failed[0]


def bare(client: openai.OpenAI) -> str:
    """What a user would write: render, ask, read."""
    return client.chat.completions.create(**question()).choices[0].message.content or ""


def question() -> dict[str, Any]:
    content = [{"type": "text", "text": Prompt("judge", values()).text}]
    return {
        "model": "m", "messages": [{"role": "user", "content": content}], "temperature": 0,
        "max_completion_tokens": 4096, "response_format": schema(Judgement).response_format,
    }  # fmt: skip


def threads(call: Callable[[], object], requests: int, concurrency: int) -> None:
    if concurrency == 1:
        for _ in range(requests):
            call()
        return
    with ThreadPoolExecutor(concurrency) as pool:
        for done in [pool.submit(call) for _ in range(requests)]:
            done.result()


def overhead(rounds: int, peer: Path | None, seconds: float) -> str:
    """Milliseconds a request: the bare client, ours, and the difference of each round, by the clock and of processor
    time of the asking process."""
    lines = [
        "| open at once | bare client, ms | open4ov, ms | above it, ms (quartiles) | processor time above it, ms |",
        "|---|---|---|---|---|",
    ]
    notes: list[str] = []
    with endpoint() as url, tempfile.TemporaryDirectory() as folder:
        for concurrency in (1, 8):
            client = openai.OpenAI(api_key="none", base_url=url, max_retries=0)
            asking = asker(url, concurrency, Path(folder) / str(concurrency))
            used: dict[str, list[float]] = {"bare": [], "ours": []}

            def timed(name: str, run: Callable[[], None], used: dict[str, list[float]] = used) -> Callable[[], None]:
                def work() -> None:
                    before = time.process_time()
                    run()
                    used[name].append(time.process_time() - before)

                return work

            def ask_bare(client: openai.OpenAI = client, concurrency: int = concurrency) -> None:
                threads(lambda: bare(client), REQUESTS, concurrency)

            def ask_ours(asking: Asker = asking) -> None:
                ours(asking, REQUESTS)

            found = in_turn({"bare": timed("bare", ask_bare), "ours": timed("ours", ask_ours)}, rounds)
            above = [1000 * (b - a) / REQUESTS for a, b in zip(found["bare"], found["ours"], strict=True)]
            processor = [1000 * (b - a) / REQUESTS for a, b in zip(used["bare"], used["ours"], strict=True)][-rounds:]
            low, middle, high = statistics.quantiles(above, n=4)
            each = {name: 1000 * statistics.median(seconds) / REQUESTS for name, seconds in found.items()}
            lines.append(
                f"| {concurrency} | {each['bare']:.2f} | {each['ours']:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) | "
                f"{statistics.median(processor):.2f} |"
            )
        if peer:
            for name in PEERS:
                notes.append(_peer(peer, name, url, 2 * REQUESTS, 8, 0.0))
    return "\n".join([*lines, "", *notes])


SCENES: dict[str, tuple[int, dict[str, float], float]] = {
    "no 429s": (32, {}, 32.0),
    "16 places, Retry-After 1 s": (32, {"places": 16, "retry_after": 1.0}, 16.0),
    "closed 1 s of every 10 s": (32, {"closed_every": 10.0, "closed_for": 1.0}, 32 * 0.9),
    "1 % at random, Retry-After 0.1 s": (32, {"refuse": 0.01, "retry_after": 0.1}, 32.0),
}
"""What it is called: (concurrency in the recipe, options of the endpoint, requests that are open at once at best)"""


def concurrency(rounds: int, peer: Path | None, seconds: float) -> str:
    """Ideal: as many open as the endpoint takes, all the time it takes any. One round: each lasts long enough."""
    lines = ["| endpoint | requests | ideal, s | took, s | share of ideal | 429s |", "|---|---|---|---|---|---|"]
    notes: list[str] = []
    for title, (most, options, best) in SCENES.items():
        requests = int(seconds * best / LATENCY)
        with endpoint(latency=LATENCY, **options) as url, tempfile.TemporaryDirectory() as folder:
            asking = asker(url, most, Path(folder))
            began = time.perf_counter()
            ours(asking, requests)
            took = time.perf_counter() - began
            refused = counts(url)["refused"]
        ideal = requests * LATENCY / best
        lines.append(f"| {title} | {requests} | {ideal:.1f} | {took:.1f} | {100 * ideal / took:.0f} % | {refused} |")
        for name in PEERS if peer else ():
            with endpoint(latency=LATENCY, **options) as url:
                assert peer is not None
                notes.append(f"{title}: {_peer(peer, name, url, requests, most, ideal)}")
    return "\n".join([*lines, "", *notes])


def _peer(python: Path, name: str, url: str, requests: int, most: int, ideal: float) -> str:
    command = [str(python), str(Path(__file__).with_name("peers_data.py")), name, url, str(requests), str(most)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return f"- {name}: no result within 10 minutes, or none that can be read"
    told = f"- {name}: {1000 * found['seconds'] / requests:.2f} ms a request, {found['answers']} of {requests} answered"
    return told + (f", {100 * ideal / found['seconds']:.0f} % of ideal" if ideal else "")


def clients(rounds: int, peer: Path | None, seconds: float) -> str:
    """Processor time a request of the official client, in threads and on asyncio."""
    lines = ["| open at once | threads, ms | asyncio, ms |", "|---|---|---|"]
    with endpoint() as url:
        client = openai.OpenAI(api_key="none", base_url=url, max_retries=0)
        for most in (1, 8, 32):
            used: dict[str, list[float]] = {"threads": [], "asyncio": []}
            for _ in range(max(2, rounds // 2)):
                before = time.process_time()
                threads(lambda: bare(client), REQUESTS, most)
                used["threads"].append(time.process_time() - before)
                before = time.process_time()
                asyncio.run(_async(url, REQUESTS, most))
                used["asyncio"].append(time.process_time() - before)
            found = {name: 1000 * statistics.median(seconds) / REQUESTS for name, seconds in used.items()}
            lines.append(f"| {most} | {found['threads']:.2f} | {found['asyncio']:.2f} |")
    return "\n".join(lines)


async def _async(url: str, requests: int, most: int) -> None:
    gate = asyncio.Semaphore(most)
    async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:

        async def one() -> None:
            async with gate:
                await client.chat.completions.create(**question())

        await asyncio.gather(*[one() for _ in range(requests)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each scene of concurrency, at the ideal")
    parser.add_argument("--peer-python", type=Path, default=None)
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    os.environ["OPEN4OV_BENCH_KEY"] = "none-needed-here"
    works = {"overhead": overhead, "concurrency": concurrency, "clients": clients}
    sections = [
        f"## {part}\n\n{works[part](options.rounds, options.peer_python, options.seconds)}\n" for part in chosen
    ]
    text = "\n".join([f"# Data construction: asking\n\n{machine()}", *sections])
    print(text)
    print(write("data", text))


if __name__ == "__main__":
    main()
