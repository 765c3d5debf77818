"""A server as a process of its own, and what it says of itself; for `bench/latency.py` and `bench/load.py`."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai


@dataclass
class Server:
    """`open4ov serve` under way."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(api_key="none", base_url=f"{self.url}/v1", max_retries=0, timeout=600)

    def metrics(self) -> dict[str, float]:
        """Its figures by name; those with labels are summed."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for name, value in re.findall(r"^open4ov:(\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    @property
    def memory(self) -> int:
        """Resident bytes of the process and of all that it has started."""
        return sum(_resident(number) for number in _family(self.process.pid))


@contextmanager
def serving(model: Path | str, *options: str, threads: int = 1) -> Iterator[Server]:
    """`open4ov serve MODEL OPTIONS` on a free port, until it is no longer needed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "open4ov.cli",
        "serve",
        str(model),
        "--port",
        str(port),
        "--name",
        "model",
        *options,
    ]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    server = Server(process, port)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        process.wait(60)


def _wait(server: Server, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.process.poll() is None:
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start")


def _family(number: int) -> list[int]:
    children = Path(f"/proc/{number}/task/{number}/children")
    found = [int(child) for child in children.read_text().split()] if children.exists() else []
    return [number, *(one for child in found for one in _family(child))]


def _resident(number: int) -> int:
    try:
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)
