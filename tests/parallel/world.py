"""Processes for tests of what is parallel: `run` starts N of them in one gloo group, on this machine.

They are forked by a server that has imported torch once, so eight start in about two seconds. They meet through a file,
not a port, and end with the test: when one fails, when the time is over, and when the test's own process is killed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

GRACE = 3.0
"""Seconds that the others have for ending by themselves, once one has failed: their errors are the consequence"""
KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class WorldError(AssertionError):
    """What went wrong in the processes: the error of the one that failed first, or where those hang that hang."""


def run(
    function: Callable[..., Any], processes: int, *arguments: Any, timeout: float = 300.0, joined: bool = True
) -> list[Any]:
    """`function(*arguments)` in each of the processes, one thread each -> what they gave, by rank.

    The function must be one of a module (it is sent by name), arguments and results what pickle takes. It runs within a
    gloo group of `processes`; with `joined=False` there is none yet, only torchrun's environment variables (RANK,
    WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Raises WorldError with the error of the rank that failed first,
    after the others were ended; and when `timeout` seconds are over, with the places where the ranks hang.
    """
    with tempfile.TemporaryDirectory(prefix="world-") as name:
        folder = Path(name)
        job = pickle.dumps((function, arguments))
        port = free_port()
        started = [
            _context().Process(target=_rank, args=(rank, processes, folder, job, port, joined, timeout), daemon=True)
            for rank in range(processes)
        ]
        try:
            for process in started:
                process.start()
            _wait(started, folder, time.monotonic() + timeout)
        finally:
            for process in started:
                process.kill()
            for process in started:
                process.join()
        return [pickle.loads((folder / f"{rank}.result").read_bytes()) for rank in range(processes)]


@dataclass
class Ended:
    """How a process ended, and what it printed."""

    code: int
    out: str
    err: str


def ended(function: Callable[..., Any], environments: Sequence[dict[str, str]], *arguments: Any) -> list[Ended]:
    """`function(*arguments)` in a process for each of the environments, as if it were a program of its own: without a
    group, its exit code and output (that of libraries in C, too) kept apart."""
    with tempfile.TemporaryDirectory(prefix="world-") as name:
        folder = Path(name)
        job = pickle.dumps((function, arguments))
        started = [
            _context().Process(target=_program, args=(folder / str(number), job, environment), daemon=True)
            for number, environment in enumerate(environments)
        ]
        try:
            for process in started:
                process.start()
            for process in started:
                process.join(300)
        finally:
            for process in started:
                process.kill()
        codes = [-1 if process.exitcode is None else process.exitcode for process in started]
        texts = [[(folder / f"{number}.{end}").read_text() for end in ("out", "err")] for number in range(len(codes))]
        return [Ended(code, *both) for code, both in zip(codes, texts, strict=True)]


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed.tensor", "torch.distributed.fsdp", "open4ov.model"])
    return context


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def _wait(started: Sequence[BaseProcess], folder: Path, until: float) -> None:
    """Until all have ended well. Raises WorldError otherwise."""
    failed_at = None
    while True:
        codes = [process.exitcode for process in started]
        if all(code == 0 for code in codes):
            return
        now = time.monotonic()
        if failed_at is None and any(codes):  # neither None nor 0
            failed_at = now
        over = failed_at is not None and now > failed_at + GRACE
        if over or None not in codes:
            raise WorldError(_failures(folder, codes))
        if now > until:
            raise WorldError(_hanging(folder, started))
        time.sleep(0.01)


def _failures(folder: Path, codes: Sequence[int | None]) -> str:
    """The error that was written first, and who died without one."""
    errors = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    told = {int(path.stem): path.read_text() for path in errors}
    dead = [f"rank {rank} died (exit code {code})" for rank, code in enumerate(codes) if code and rank not in told]
    first = next(iter(told.items()), None)
    lines = [*dead, *([f"rank {first[0]} of {len(codes)} failed:\n{first[1]}"] if first else [])]
    if others := [rank for rank in told if first and rank != first[0]]:
        lines.append(f"ranks {others} failed after it: {told[others[0]].strip().splitlines()[-1]}")
    return "\n".join(lines)


def _hanging(folder: Path, started: Sequence[BaseProcess]) -> str:
    alive = [(rank, process) for rank, process in enumerate(started) if process.exitcode is None]
    for _, process in alive:
        os.kill(process.pid or 0, signal.SIGUSR1)  # faulthandler writes where it is
    time.sleep(0.5)
    stacks = [f"rank {rank} hangs:\n{(folder / f'{rank}.stack').read_text()}" for rank, _ in alive]
    return "\n".join(["the time is over", *stacks])


def _program(place: Path, job: bytes, environment: dict[str, str]) -> None:
    ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
    os.environ |= environment
    torch.set_num_threads(1)
    for descriptor, end in ((1, "out"), (2, "err")):
        with open(f"{place}.{end}", "w") as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    code = 0
    try:
        function, arguments = pickle.loads(job)
        function(*arguments)
    except SystemExit as leaves:
        code = int(leaves.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _rank(rank: int, world: int, folder: Path, job: bytes, port: int, joined: bool, timeout: float) -> None:
    ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
    stack = (folder / f"{rank}.stack").open("w")
    faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    try:
        function, arguments = pickle.loads(job)
        if joined:
            store = dist.FileStore(str(folder / "store"), world)
            wait = timedelta(seconds=timeout)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=wait)
        result = pickle.dumps(function(*arguments))
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)  # at once: whoever waits for this rank is to see it gone
    (folder / f"{rank}.result").write_bytes(result)
    if joined and dist.is_initialized():
        dist.barrier()  # whoever leaves first would look like a failure to those that still talk to it
        dist.destroy_process_group()
    stack.close()
    os._exit(0)
