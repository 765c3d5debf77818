"""The processes of an external check: the server that both ask, and the kit. They end when this one does."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from open4ov.errors import UserError

MODEL = "open4ov"
"""What the server calls the model, and the kit's files are called after (as in the worker)"""
STARTING = 600.0
"""Seconds in which a server must listen; a large model takes minutes to load"""
_LAST = 25
"""Lines of a log that are shown when its process fails"""
_WITH_US = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Run first in a process that is to end when this one is killed (PR_SET_PDEATHSIG of Linux)"""


@dataclass(frozen=True)
class Served:
    """An endpoint, its address ending in /v1, and what it calls the model."""

    address: str
    model: str
    key: str


@contextmanager
def serving(
    folder: Path, log: Path, quantize: str | None = None, adapter: Path | None = None, device: str = "auto"
) -> Generator[Served]:
    """`open4ov serve` on a free local port, for as long as the block runs. Raises UserError when it does not come up,
    with the last lines of its log."""
    key = secrets.token_urlsafe(32)
    command = [sys.executable, "-m", "open4ov", "serve", str(folder), "--port", "0", "--name", MODEL,
               "--keep-degenerate", "--drain-seconds", "0", "--device", device]  # fmt: skip
    command += ["--quantize", quantize] if quantize else []
    command += ["--adapter", str(adapter)] if adapter else []
    with process(command, {**os.environ, "OPEN4OV_API_KEYS": key}, log) as server:
        start = time.monotonic()
        while not (told := [line for line in _lines(log) if line.startswith(f"open4ov: {MODEL} at http")]):
            if server.poll() is not None:
                raise UserError(f"open4ov serve {folder} ended before it listened; the end of {log}:\n{end_of(log)}")
            if time.monotonic() - start > STARTING:
                raise UserError(f"open4ov serve {folder} does not listen after {STARTING:g} seconds; see {log}")
            time.sleep(0.1)
        yield Served(told[0].split()[3], MODEL, key)


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process with all that it starts, which ends with the block, and with us if we are killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as written:
        started = subprocess.Popen(
            [sys.executable, "-c", _WITH_US, *command],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    try:
        yield started
    finally:
        for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            with suppress(ProcessLookupError):
                os.killpg(started.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                started.wait(patience)
                break
        with suppress(ProcessLookupError):  # children that the first has left behind
            os.killpg(started.pid, signal.SIGKILL)


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def end_of(log: Path) -> str:
    """Its last lines."""
    return "\n".join(_lines(log)[-_LAST:])
