"""One desk for several processes, on whatever machines: kept answers and the book of costs lie with one process.

SQLite is right for the processes of one machine and not for a file system over a network. So `Counter` opens the two
files in one process, and the others ask it by messages (`Call`); how those travel is not known here (executor_ray.py).
Each answer is kept as soon as it is there, so a process that dies loses none that it had; and each request is set aside
in the one book before it is sent, so the hard stop holds for all together.

What a process had set aside when it died counts as spent, as after a kill of the whole: it may have been charged. A
process that says nothing for `SILENT` seconds is taken for dead; it says something every `BEAT` seconds.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from open4ov.mllm.budget import Budget, Reservation, Usage
from open4ov.mllm.cache import AnswerCache, Kept
from open4ov.mllm.desk import Desk
from open4ov.mllm.local import Local
from open4ov.recipe import DataSection
from open4ov.recipe_providers import BudgetSection, PriceSection

BEAT, SILENT = 5.0, 60.0
AGAIN = 0.05
"""Seconds after which a process asks again whether the budget allows its request now"""

UNLIMITED = -1
"""Stands for the number of a request that nobody had to set aside anything for"""

Call = Callable[..., Any]
"""call(method, *arguments): a method of the `Counter`, wherever it is"""


class Counter:
    """What the others call. All methods return at once, and may be called by several threads."""

    def __init__(self, section: DataSection, place: Path | None, silent: float = SILENT) -> None:
        self._desk, self._silent = Desk.open(section, place), silent
        self._lock = threading.Lock()
        self._open: dict[str, dict[int, Reservation]] = {}
        self._heard: dict[str, float] = {}
        self._tallies: dict[str, dict[str, Any]] = {}

    def get(self, key: bytes) -> Kept | None:
        return None if self._desk.cache is None else self._desk.cache.get(key)

    def put(self, *what: Any) -> None:
        if self._desk.cache is not None:
            self._desk.cache.put(*what)

    def offer(self, who: str, role: str, provider: str, most: Usage, price: PriceSection | None) -> Reservation | None:
        """As `Budget.offer`. Raises `BudgetError`."""
        self.beat(who)
        self._bury()
        with self._lock:
            reserved = self._desk.budget.offer(role, provider, most, price)
            if reserved is not None:
                self._open.setdefault(who, {})[reserved.serial] = reserved
        return reserved

    def settle(self, who: str, reserved: Reservation, took: Usage) -> None:
        with self._lock:
            budget = self._desk.budget
            if reserved.serial == UNLIMITED:
                mine = budget.offer(reserved.role, reserved.provider, reserved.most, reserved.price)
                assert mine is not None, "a budget without limits has no end"
                budget.settle(mine, took)
            elif self._open.get(who, {}).pop(reserved.serial, None) is not None:
                budget.settle(reserved, took)  # else booked as spent when its process was taken for dead

    def beat(self, who: str) -> None:
        """The process is alive."""
        with self._lock:
            self._heard[who] = time.monotonic()

    def told(self, who: str, tally: dict[str, Any]) -> None:
        """All that a process counted so far."""
        with self._lock:
            self._tallies[who] = tally

    def report(self) -> dict[str, Any]:
        """As `Desk.report`, of all processes together."""
        roles: dict[str, Any] = {}
        with self._lock:
            for tally in self._tallies.values():
                _add(roles, tally)
        for counts in roles.values():
            for name in ("retried", "faults"):
                counts[name] = dict(sorted(counts[name].items()))
        return {"roles": dict(sorted(roles.items())), "spent": self._desk.budget.report()}

    def _bury(self) -> None:
        now = time.monotonic()
        with self._lock:
            dead = [who for who in self._open if self._open[who] and now - self._heard.get(who, now) > self._silent]
            for who in dead:
                for reserved in self._open.pop(who).values():
                    self._desk.budget.settle(reserved, Usage(reserved.most.input, reserved.most.output, 1))


class SharedDesk(Desk):
    """The desk as a process sees it that asks a `Counter` elsewhere."""

    def __init__(self, section: DataSection, call: Call) -> None:
        self.who = uuid.uuid4().hex
        self._call = call
        super().__init__(
            _Answers(call),
            _Book(section.budget, self.who, call),
            Local(section.local_hosts) if section.local_only else None,
        )
        self._closed = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        while not self._closed.is_set():
            try:
                self._call("beat", self.who)
            except Exception:  # the counter is gone, and with it the run
                return
            self._closed.wait(BEAT)

    def close(self) -> None:
        """The process will ask no more."""
        self._closed.set()

    def tell(self) -> None:
        """Hands over what was counted so far."""
        self._call("told", self.who, self.tally.report())

    def report(self) -> dict[str, Any]:
        self.tell()
        return self._call("report")


class _Answers(AnswerCache):
    def __init__(self, call: Call) -> None:
        self._call = call

    def get(self, key: bytes) -> Kept | None:
        return self._call("get", key)

    def put(self, key: bytes, kept: Kept, model: str, prompt: str) -> None:
        self._call("put", key, kept, model, prompt)

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:
        return


class _Book(Budget):
    def __init__(self, limits: BudgetSection, who: str, call: Call) -> None:
        self._limited = limits.tokens is not None or limits.money is not None
        self._who, self._call = who, call
        self._end: Exception | None = None

    def reserve(self, role: str, provider: str, most: Usage, price: PriceSection | None) -> Reservation:
        while (found := self.offer(role, provider, most, price)) is None:
            if self._end is not None:
                raise self._end
            time.sleep(AGAIN)
        return found

    def end(self, error: Exception) -> None:
        self._end = error

    def offer(self, role: str, provider: str, most: Usage, price: PriceSection | None) -> Reservation | None:
        if not self._limited:  # as the book itself would say, without the way there
            return Reservation(UNLIMITED, None, role, provider, most, price)
        return self._call("offer", self._who, role, provider, most, price)

    def settle(self, reserved: Reservation, took: Usage) -> None:
        self._call("settle", self._who, reserved, took)

    def abandon(self) -> None:
        """What was set aside and not settled counts as spent when this process says nothing any more."""

    def report(self) -> dict[str, Any]:
        return self._call("report")["spent"]

    def close(self) -> None:
        return


def _add(into: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict):
            _add(into.setdefault(name, {}), cast("dict[str, Any]", value))
        else:
            into[name] = into.get(name, 0) + value
