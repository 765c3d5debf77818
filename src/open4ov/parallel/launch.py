"""Joins the processes that torchrun has started into one training, and makes them end together.

torchrun says to each process who it is, by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; without these
there is one process, and nothing of this is used. Rank 0 alone prints and writes; see `watch.py` for what happens when
a rank fails.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Timer
from typing import TextIO

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from open4ov.errors import UserError
from open4ov.parallel import torch_log
from open4ov.parallel.watch import LEAVING, Watch
from open4ov.recipe_parallel import ParallelSection

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
IN_VAIN = "open4ov/in vain"
"""Key of torchrun's store, which outlives a start: one has ended with what the user must mend"""
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


@dataclass(frozen=True)
class World:
    """The processes of a training, and this one among them. `local`: its number on its machine."""

    rank: int
    size: int
    local: int
    device: torch.device
    store: Store = field(repr=False)
    timeout: float = 600.0

    @property
    def leads(self) -> bool:
        """Whether this is the process that prints, and writes into the run directory."""
        return self.rank == 0


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or what is like it, has started this process as one of several."""
    return "RANK" in environment and environment.get("WORLD_SIZE", "") != "1"


@contextmanager
def joined(options: ParallelSection, device: str) -> Generator[World]:
    """The process group of all ranks, while the block runs: gloo, with nccl beside it on `cuda`.

    Ranks other than 0 print nothing in the block. A failure of any rank in it ends all of them: rank 0 prints the first
    one and exits with 2 for a UserError, 1 for another fault and for ranks that died or hang, 130 after Ctrl-C, and so
    do the others, in silence. After a UserError another start by torchrun (`--max-restarts`) ends at once.

    Raises UserError for an environment that says nothing sensible, a port in use, a meeting point where nobody is,
    ranks that do not come within `parallel.timeout`, and more processes than the machine has GPUs.
    """
    rank, size, local = (_number(name) for name in NAMES[:3])
    place = _device(device, local)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with suppress(OSError, AttributeError):  # an agent that is killed leaves nobody behind
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
    if rank >= size:
        raise UserError(f"RANK is {rank}, but WORLD_SIZE is {size}: ranks go from 0 to {size - 1}")
    base = _met(rank, size, options.timeout)
    _not_again(base, rank)
    store = PrefixStore(f"open4ov/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", base)
    hosts = _all_here(store, rank, size, options.timeout)
    out, err = sys.stdout, sys.stderr
    watch = Watch(store, rank, hosts, options.timeout, err, speaks=rank == 1 or local == 0)
    with torch_log.told(rank), _silent(rank) as _:
        try:
            own = store.clone()  # pyright: ignore[reportAttributeAccessIssue]  # a store is for one thread
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
                store=PrefixStore("groups", own),
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=options.timeout),
                device_id=place if place.type == "cuda" else None,
            )
            yield World(rank, size, local, place, store, options.timeout)
            dist.barrier()
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, UserError) and error.final:
                with suppress(RuntimeError):  # the store is gone with rank 0, and with it whoever would start again
                    base.set(IN_VAIN, "")
            code = watch.failed(error)
            out.flush()
            os._exit(code) if rank else _leave(code)
        watch.close()
        dist.destroy_process_group()


def _leave(code: int) -> None:
    """Out of all blocks, so that what they hold is let go; not later than in a while, whatever still waits."""
    timer = Timer(LEAVING, os._exit, (code,))
    timer.daemon = True
    timer.start()
    raise SystemExit(code)


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdigit():
        told = f"is {value!r}, which is no whole number" if value else "is not set"
        raise UserError(f"{name} {told}; start the processes with torchrun, which sets {', '.join(NAMES)}")
    return int(value)


def _device(device: str, local: int) -> torch.device:
    if torch.device(device).type != "cuda":
        return torch.device("cpu")
    there = torch.cuda.device_count()
    if local >= there:
        raise UserError(
            f"LOCAL_RANK is {local}, but this machine has {there} CUDA devices; start at most {there} processes on it "
            "(torchrun --nproc-per-node)"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _met(rank: int, size: int, timeout: float) -> Store:
    """The store where all ranks meet; rank 0 makes it, unless torchrun has."""
    host, port = os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT")
    if not host:
        raise UserError(f"MASTER_ADDR is not set; start the processes with torchrun, which sets {', '.join(NAMES)}")
    if port > 65535:
        raise UserError(f"MASTER_PORT: {port} is no port; use one of 1024 to 65535")
    makes = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = TCPStore(host, port, None, makes, timedelta(seconds=timeout), wait_for_workers=False)
    except (dist.DistError, RuntimeError, ValueError) as error:
        text = str(error)
        if makes and ("EADDRINUSE" in text or "address already in use" in text):
            raise UserError(
                f"port {port} of this machine is in use, by another training perhaps; give another (torchrun "
                "--master-port, or MASTER_PORT)"
            ) from None
        if "0 to 65535" in text or ("port" in text.lower() and isinstance(error, ValueError)):
            raise UserError(f"MASTER_PORT: {port} is no port; use one of 1024 to 65535") from None
        raise UserError(
            f"rank {rank}: nobody answers at {host}, port {port} (MASTER_ADDR, MASTER_PORT) within {timeout:g} s "
            "(parallel.timeout): rank 0 is not started, cannot be reached, or another program has the port"
        ) from None
    return store


def _not_again(store: Store, rank: int) -> None:
    """Raises UserError, on rank 0, where an earlier start of torchrun's has ended with one: this one would, too. The
    others leave in silence."""
    if store.check([IN_VAIN]):
        if rank:
            raise SystemExit(2)
        raise UserError("not tried again, though torchrun has --max-restarts left: mend what is told above first")


def _all_here(store: Store, rank: int, size: int, timeout: float) -> list[str]:
    """Waits for all ranks -> the names of their machines. Raises UserError that names those that are missing, on rank
    0; the others leave in silence then."""
    try:
        return _counted(store, rank, size, timeout)
    except RuntimeError:  # the store is gone with rank 0, which says why
        if rank == 0:
            raise
        raise SystemExit(2) from None


def _counted(store: Store, rank: int, size: int, timeout: float) -> list[str]:
    if store.add(f"came/{rank}", 1) > 1:
        raise UserError(f"two processes say that they are rank {rank}; start them with torchrun, which counts them")
    if int(store.compare_set("size", "", str(size))) != size:
        raise UserError(f"rank {rank} was started as one of {size} processes, others as one of another number")
    store.set(f"here/{rank}", os.uname().nodename)
    keys = [f"here/{other}" for other in range(size)]
    until = time.monotonic() + timeout
    while not store.check(keys):
        if store.check(["given up"]):
            raise SystemExit(2)
        if time.monotonic() > until + (LEAVING if rank else 0):
            store.set("given up", "")
            missing = [other for other, key in enumerate(keys) if not store.check([key])]
            raise UserError(
                f"{len(missing)} of {size} processes did not come within {timeout:g} s (parallel.timeout): "
                f"{ranks(missing)}; start as many as WORLD_SIZE says, and look whether one has failed at the start"
            )
        time.sleep(0.02)
    return [store.get(key).decode() for key in keys]


def ranks(numbers: list[int], most: int = 8) -> str:
    """`rank 3`, `ranks 1, 3`, and the rest counted where there are many."""
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ("rank " if len(numbers) == 1 else "ranks ") + ", ".join(map(str, numbers[:most])) + more


@contextmanager
def _silent(rank: int) -> Generator[TextIO | None]:
    """What ranks other than 0 print goes nowhere. What a crash writes from below Python still shows."""
    if rank == 0:
        yield None
        return
    out, err = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        try:
            yield nowhere
        finally:
            sys.stdout, sys.stderr = out, err
