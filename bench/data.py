"""Data construction: what asking an endpoint costs beside the answers themselves. See `--help`.

    python -m bench.data [--only overhead,concurrency,resume,peers,clients] [--rounds 7] [--seconds 12]
        [--peer-python .venv-peers/bin/python]

overhead: `ask_many` against the bare `openai` client at zero latency, a new question each time, with kept answers and
the book of costs on disk; milliseconds a request above it. concurrency: the share of the ideal at 200 ms latency with
429s, of four kinds. resume: what a run that was killed sends again. clients: the official client in threads and on
asyncio (only if named). The endpoint is a process of its own (`bench/endpoint.py`), on the same cores. peers:
distilabel and Bespoke Curator, from an environment of their own with both (`pip install distilabel[openai]==1.5.3
bespokelabs-curator==0.1.31`; no torch comes with them), if `--peer-python` names its interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from bench.asking import asker, bare, ours, question, threads, values
from bench.endpoint import counts, endpoint
from bench.measure import in_turn, machine, write
from open4ov.mllm import Asker, Prompt
from open4ov.mllm.cache import AnswerCache

PARTS = ("overhead", "concurrency", "resume", "peers", "clients")
USUAL = PARTS[:4]
PEERS = ("distilabel", "curator")
REQUESTS = 300
"""In one round"""
LATENCY = 0.2
OPEN = 32
"""Most open at once, as the recipe of the run and the set-up of each peer say"""
PATIENCE = 120
"""Seconds for a peer, imports included"""


def overhead(rounds: int, peer: Path | None, seconds: float) -> str:
    """Milliseconds a request: the bare client, ours, and the difference of each round, by the clock and of processor
    time of the asking process."""
    lines = [
        "| open at once | bare client, ms | open4ov, ms | above it, ms (quartiles) | processor time above it, ms |",
        "|---|---|---|---|---|",
    ]
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
    return "\n".join(lines)


SCENES: dict[str, tuple[dict[str, float], float]] = {
    "no 429s": ({}, 32.0),
    "16 places, Retry-After 1 s": ({"places": 16, "retry_after": 1.0}, 16.0),
    "closed 1 s of every 10 s": ({"closed_every": 10.0, "closed_for": 1.0}, 32 * 0.9),
    "1 % at random, Retry-After 0.1 s": ({"refuse": 0.01, "retry_after": 0.1}, 32.0),
}
"""What it is called: (options of the endpoint, requests that are open at once at best)"""


def concurrency(rounds: int, peer: Path | None, seconds: float) -> str:
    """The share of ideal concurrency. Ideal is what the endpoint would have answered at its limit over the same time:
    its places (or the recipe's 32, where it has more) always taken, also while the client does not know the limit yet,
    and while the endpoint has just refused a question; only when it refuses everybody nothing is expected of it.

    A busy machine takes its part of that share. So in between the bare client does the same in as many threads as the
    endpoint has places, without any 429: what this machine allows just then, to somebody who knows the limit. Processor
    time a request, times the requests a second at the ideal, is the part of one core that the ideal needs.
    """
    lines = [
        "| endpoint | requests | ideal, s | took, s | share of ideal | bare client, limit known | open, of ideal "
        "| 429s | processor, ms a request |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for title, (options, best) in SCENES.items():
        requests = int(seconds * best / LATENCY)
        ideal = requests * LATENCY / best
        share = _bare_share(min(requests, int(seconds / 2 * best / LATENCY)), int(best))
        with endpoint(latency=LATENCY, **options) as url, tempfile.TemporaryDirectory() as folder:
            asking = asker(url, OPEN, Path(folder))
            before, began = time.process_time(), time.perf_counter()
            ours(asking, requests)
            took, used = time.perf_counter() - began, time.process_time() - before
            found = counts(url)
        cells = [
            title, requests, f"{ideal:.1f}", f"{took:.1f}", f"{ideal / took:.0%}", f"{share:.0%}",
            f"{found['open_seconds'] / took / best:.0%}", int(found["refused"]), f"{1000 * used / requests:.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _bare_share(requests: int, places: int) -> float:
    with endpoint(latency=LATENCY) as url:
        client = openai.OpenAI(api_key="none", base_url=url, max_retries=0)
        began = time.perf_counter()
        threads(lambda: bare(client), requests, places)
        return requests * LATENCY / places / (time.perf_counter() - began)


PEER_SCENES = ("no 429s", "16 places, Retry-After 1 s", "1 % at random, Retry-After 0.1 s")


def peers(rounds: int, peer: Path | None, seconds: float) -> str:
    """The same questions to the same endpoint, with as many open at most; how each peer is set up says
    `bench/peers_data.py`. `lost`: questions without an answer that fits the schema, at the end."""
    if peer is None:
        return "Not run: no --peer-python."
    lines = [
        "| endpoint | who | seconds | ms a request | share of ideal | processor, ms a request | requests sent | 429s | "
        "lost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    scenes = {"no latency": ({}, 0.0, REQUESTS)}
    for title in PEER_SCENES:
        options, best = SCENES[title]
        scenes[title] = ({"latency": LATENCY, **options}, best, int(seconds / 3 * best / LATENCY))
    for title, (options, best, requests) in scenes.items():
        for name in ("open4ov", *PEERS):
            with endpoint(**options) as url, tempfile.TemporaryDirectory() as folder:
                found = (
                    _us(url, requests, Path(folder)) if name == "open4ov" else _peer(peer, name, url, requests, folder)
                )
                seen = counts(url)
            told = "no result: " + str(found["fault"]) if "fault" in found else None
            if told:
                lines.append(f"| {title} | {name} | {told} | | | | {_sent(seen)} | {seen['refused']:.0f} | |")
                continue
            share = f"{100 * requests * LATENCY / best / found['seconds']:.0f} %" if best else ""
            lines.append(
                f"| {title} | {name} | {found['seconds']:.1f} | {1000 * found['seconds'] / requests:.2f} | {share} | "
                f"{1000 * found['processor'] / requests:.2f} | {_sent(seen)} | {seen['refused']:.0f} | "
                f"{requests - found['good']} of {requests} |"
            )
            if found.get("versions") and found["versions"] not in notes:
                notes.append(found["versions"])
    return "\n".join([*lines, "", "Peers: " + "; ".join(notes) + "."])


def _sent(seen: dict[str, float]) -> str:
    return f"{seen['answered'] + seen['refused']:.0f}"


def _us(url: str, requests: int, folder: Path) -> dict[str, Any]:
    asking = asker(url, OPEN, folder)
    before, began = time.process_time(), time.perf_counter()
    ours(asking, requests)
    return {"seconds": time.perf_counter() - began, "processor": time.process_time() - before, "good": requests}


def _peer(python: Path, name: str, url: str, requests: int, folder: str) -> dict[str, Any]:
    questions = Path(folder) / "questions.json"
    questions.write_text(json.dumps([Prompt("judge", values()).text for _ in range(requests)]))
    command = [str(python), str(Path(__file__).with_name("peers_data.py")), name, str(questions), url, str(OPEN)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment)
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"fault": f"not done after {PATIENCE} s"}
    except (ValueError, IndexError):
        return {"fault": "it ended without one"}


KILLED = """
import sys
from bench.asking import asker, judgements
from pathlib import Path
asker(sys.argv[1], 8, Path(sys.argv[2])).ask_many(judgements(range(400)))
"""


def resume(rounds: int, peer: Path | None, seconds: float) -> str:
    """A run of 400 questions is killed (SIGKILL) half-way, and started again by the same command: what was answered is
    not sent again. Questions that were under way at the kill are; the endpoint had not answered them."""
    with endpoint(latency=0.05) as url, tempfile.TemporaryDirectory() as folder:
        begun = subprocess.Popen([sys.executable, "-c", KILLED, url, folder])
        while counts(url)["answered"] < 200:
            assert begun.poll() is None
            time.sleep(0.01)
        begun.kill()
        begun.wait(30)
        time.sleep(0.2)
        before, kept = counts(url)["answered"], len(AnswerCache(Path(folder) / "asked"))
        subprocess.run([sys.executable, "-c", KILLED, url, folder], check=True)
        sent = counts(url)["answered"] - before
    again = sent - (400 - kept)
    return "\n".join([
        "| answered before the kill | of these kept | sent by the second start | kept, yet sent again |",
        "|---|---|---|---|",
        f"| {before:.0f} | {kept} | {sent:.0f} | {again:.0f} |",
    ])  # fmt: skip


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
    parser.add_argument("--only", default=",".join(USUAL))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each scene of concurrency, at the ideal")
    parser.add_argument("--peer-python", type=Path, default=None)
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    works = {
        "overhead": overhead, "concurrency": concurrency, "resume": resume, "peers": peers, "clients": clients,
    }  # fmt: skip
    sections = [
        f"## {part}\n\n{works[part](options.rounds, options.peer_python, options.seconds)}\n" for part in chosen
    ]
    text = "\n".join([f"# Data construction: asking\n\n{machine()}", *sections])
    print(text)
    print(write("data", text))


if __name__ == "__main__":
    main()
