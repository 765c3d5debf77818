"""Ends all ranks together, with one message, when one of them fails, dies or hangs.

Ranks tell each other what happened through the store that they met at, by a thread of their own each, for the main one
may be waiting in a collective for a rank that will never come. A rank that fails says why; one whose collective fails
asks the others where they are, and blames those that wait for nobody. Rank 0 prints, or the first that finds it
silent.

Keys of the store: beat/R (a number that grows), cut/R (its collective failed), ask, where/R (what its main thread
does), failed (the first failure, as JSON), told (it was printed), left/R.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Literal, TextIO

import torch.distributed as dist
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from open4ov.errors import UserError

EVERY = 0.25
"""Seconds between two looks at the store"""
GRACE = 5.0
"""Seconds in which whoever is to blame speaks up, when a collective has failed"""
LEAVING = 10.0
"""Seconds within which a process that ends must be gone; then it is ended"""
EXIT = {"user": 2, "fault": 1, "lost": 1, "stopped": 130}

_OF_OTHERS = re.compile(r"gloo|NCCL|ProcessGroup|Connection (closed|reset|refused)|Broken pipe|recvBytes|sendBytes")
"""In the message of a RuntimeError: it is another rank's fault"""


@dataclass(frozen=True)
class Failure:
    """Why all ranks end. `user`: a UserError; `fault`: another exception; `lost`: ranks that died or hang; `stopped`:
    Ctrl-C."""

    rank: int
    kind: Literal["user", "fault", "lost", "stopped"]
    text: str

    @property
    def message(self) -> str:
        """What is printed; empty for Ctrl-C."""
        if self.kind == "stopped":
            return ""
        return f"open4ov: rank {self.rank} failed:\n{self.text}" if self.kind == "fault" else f"open4ov: {self.text}"


class Watch:
    """One rank's watch over all. `stream`: where a message goes; `timeout`: seconds without a sign of life after which
    a rank counts as dead; `hosts`: the names of their machines."""

    def __init__(self, store: Store, rank: int, hosts: list[str], timeout: float, stream: TextIO, speaks: bool) -> None:
        self._store, self._rank, self._hosts = store, rank, hosts
        self._timeout, self._stream, self._speaks = timeout, stream, speaks
        self._main = threading.get_ident()
        self._over = threading.Event()
        self._ending = threading.Lock()
        own = store.clone()  # pyright: ignore[reportAttributeAccessIssue]  # a store is for one thread
        self._thread = threading.Thread(target=self._watch, args=(own,), name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """At a good end: once all are here, none can be missed any more."""
        self._store.set(f"left/{self._rank}", "")
        if self._rank == 0:  # it may host the store
            until = time.monotonic() + LEAVING
            while time.monotonic() < until and not self._store.check([f"left/{r}" for r in range(len(self._hosts))]):
                time.sleep(0.01)
        self._over.set()
        self._thread.join(LEAVING)

    def failed(self, error: BaseException) -> int:
        """Tells all ranks of this one's failure, or hears of the one that caused it -> the exit code, once it has been
        printed."""
        failure = self._of(error)
        self._end(self._store, failure)
        return EXIT[failure.kind]

    def _of(self, error: BaseException) -> Failure:
        if isinstance(error, KeyboardInterrupt):
            return self._first(self._store, Failure(self._rank, "stopped", ""))
        if isinstance(error, UserError):
            return self._first(self._store, Failure(self._rank, "user", str(error)))
        text = "".join(traceback.format_exception(error)).strip()
        if not (isinstance(error, dist.DistError | RuntimeError) and _OF_OTHERS.search(str(error))):
            return self._first(self._store, Failure(self._rank, "fault", text))
        return self._first(self._store, self._lost(text))

    def _lost(self, text: str) -> Failure:
        """Whose fault it is that a collective has failed here; the failure that was told meanwhile, if any."""
        store = self._store
        try:
            store.set(f"cut/{self._rank}", "")
            store.set("ask", "")
            before = self._beats(store)
            until = time.monotonic() + GRACE
            while time.monotonic() < until:
                if store.check(["failed"]):
                    return Failure(**json.loads(store.get("failed")))
                time.sleep(0.05)
            after = self._beats(store)
            ranks = range(len(self._hosts))
            to_blame = [
                rank for rank in ranks if not store.check([f"cut/{rank}"]) and not store.check([f"left/{rank}"])
            ]
            told: list[str] = []
            for rank in to_blame:
                name = f"rank {rank} on {self._hosts[rank]}"
                if before[rank] == after[rank]:
                    told.append(f"{name} is gone: its process has died, or its machine cannot be reached")
                else:
                    where = store.get(f"where/{rank}").decode() if store.check([f"where/{rank}"]) else "nobody knows"
                    told.append(
                        f"{name} did not come to where the others waited for it for {self._timeout:g} s "
                        f"(parallel.timeout); it is at:\n{where}"
                    )
        except RuntimeError:
            told = []  # the store is gone too
        if not told:
            return Failure(self._rank, "fault", text)
        return Failure(self._rank, "lost", "\n".join(told))

    def _beats(self, store: Store) -> list[bytes]:
        keys = [f"beat/{rank}" for rank in range(len(self._hosts))]
        return [store.get(key) if store.check([key]) else b"" for key in keys]

    def _first(self, store: Store, failure: Failure) -> Failure:
        """The failure that counts: the first that was told."""
        try:
            return Failure(**json.loads(store.compare_set("failed", "", json.dumps(asdict(failure)))))
        except RuntimeError:
            return failure

    def _watch(self, store: Store) -> None:
        """The thread. Ends the process where another rank has failed."""
        seen = {rank: (b"", time.monotonic()) for rank in range(len(self._hosts))}
        count, looked, answered = 0, time.monotonic(), False
        try:
            while not self._over.wait(EVERY):
                count += 1
                store.set(f"beat/{self._rank}", str(count))
                if store.check(["ask"]) and not answered:
                    store.set(f"where/{self._rank}", self._where())
                    answered = True
                if store.check(["failed"]):
                    break
                if time.monotonic() - looked > self._timeout / 20:
                    looked = time.monotonic()
                    if gone := self._silent(store, seen):
                        self._first(store, gone)
            if self._over.is_set():
                return
            failure = Failure(**json.loads(store.get("failed")))
        except RuntimeError as error:
            if self._over.is_set():
                return
            failure = Failure(
                self._rank, "lost", f"the ranks' meeting point is gone, and with it rank 0: {_line(error)}"
            )
        self._end(store, failure)
        os._exit(EXIT[failure.kind])

    def _silent(self, store: Store, seen: dict[int, tuple[bytes, float]]) -> Failure | None:
        """A rank without a sign of life. Rank 0 looks after all, the others after rank 0."""
        now = time.monotonic()
        for rank in range(len(self._hosts)) if self._rank == 0 else [0]:
            key = f"beat/{rank}"
            beat = store.get(key) if store.check([key]) else b""
            if beat != seen[rank][0]:
                seen[rank] = (beat, now)
            elif now - seen[rank][1] > self._timeout and not store.check([f"left/{rank}"]):
                what = f"rank {rank} on {self._hosts[rank]} has given no sign of life for {self._timeout:g} s"
                return Failure(self._rank, "lost", f"{what} (parallel.timeout): its process or its machine is gone")
        return None

    def _where(self) -> str:
        frame = sys._current_frames().get(self._main)
        return "".join(traceback.format_stack(frame)[-4:]).rstrip() if frame else "its end"

    def _end(self, store: Store, failure: Failure) -> None:
        """Returns once the failure was printed, here or by another rank. Of two threads that come here, one does it."""
        if not self._ending.acquire(blocking=False):
            time.sleep(LEAVING)  # the other one ends the process
            os._exit(EXIT[failure.kind])
        try:
            if self._rank:
                until = time.monotonic() + GRACE
                while time.monotonic() < until and not store.check(["told"]):
                    time.sleep(0.05)
                if store.check(["told"]) or store.add("tellers", 1) > 1:
                    return
            self._say(failure)
            store.set("told", "")
            if self._rank == 0:
                time.sleep(2 * EVERY)  # it may host the store: the others are to find it told
        except RuntimeError:  # the store is gone: rank 0 has told, or is dead
            if failure.kind == "lost" and self._speaks:
                self._say(failure)

    def _say(self, failure: Failure) -> None:
        if failure.message:
            print(failure.message, file=self._stream, flush=True)


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]
