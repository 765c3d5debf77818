"""What questions cost, and the hard stop before one that could cost too much (`data.budget`).

Before a request is sent, the most it can take is set aside: input by `tokens.bound`, output by `max_tokens`. When the
reply is there, what it really took is booked instead, by the endpoint's own count where it gives one; a reply that does
not come (time-out, closed connection) is booked as long as it may have become, since it may be charged. A request that
does not fit waits for those under way, which usually give back most of what was set aside; if none is under way the
stage ends, and goes on from there when the budget is raised.

The book lies in the run's folder, so a budget holds over all starts of a run. With a budget, what was set aside is in
the book too: a process that was killed may have been charged for what it had sent, so that counts as spent.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov.mllm.ask import ProviderError
from open4ov.mllm.database import connect
from open4ov.recipe import BudgetSection, PriceSection

_SCHEMA = """
CREATE TABLE spent (
    stage TEXT, role TEXT, provider TEXT, requests INTEGER, input INTEGER, output INTEGER, estimated INTEGER,
    money REAL, PRIMARY KEY (stage, role, provider)
) WITHOUT ROWID;
CREATE TABLE open (id INTEGER PRIMARY KEY, stage TEXT, role TEXT, provider TEXT, input INTEGER, output INTEGER,
    money REAL)
"""
_ADD = """
INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
    input = input + excluded.input, output = output + excluded.output, estimated = estimated + excluded.estimated,
    money = money + excluded.money
"""


def spent_before(path: Path) -> tuple[int, float]:
    """Tokens and money in the book of a run, with what was under way when it ended; nothing without a book."""
    if not path.is_file():
        return 0, 0.0
    with closing(connect(path, _SCHEMA, 1)) as book:
        found = book.execute(
            "SELECT sum(input + output), sum(money) FROM "
            "(SELECT input, output, money FROM spent UNION ALL SELECT input, output, money FROM open)"
        ).fetchone()
    return int(found[0] or 0), float(found[1] or 0.0)


class BudgetError(ProviderError):
    """The next question could cost more than the recipe allows. Ends the stage; a run with a larger budget goes on."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one or several requests. `estimated`: how many of the requests an endpoint did not count."""

    input: int = 0
    output: int = 0
    estimated: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input + other.input, self.output + other.output, self.estimated + other.estimated)

    def money(self, price: PriceSection | None) -> float:
        return (self.input * price.input + self.output * price.output) / 1e6 if price else 0.0


@dataclass(frozen=True)
class Reservation:
    """What was set aside for one request. `number`: of its row in the book; None without a limit."""

    serial: int
    number: int | None
    role: str
    provider: str
    most: Usage
    price: PriceSection | None


class Budget:
    """The book of a run and its limits. `path`: its file; None keeps it in memory."""

    def __init__(self, limits: BudgetSection | None = None, path: Path | None = None, stage: str = "data") -> None:
        self._limits, self._stage = limits or BudgetSection(), stage
        self._limited = self._limits.tokens is not None or self._limits.money is not None
        self._condition = threading.Condition()
        self._open_tokens, self._open_money = 0, 0.0
        self._ended: Exception | None = None
        self._serials, self._under_way = itertools.count(), dict[int, Reservation]()
        self._database = connect(path, _SCHEMA, 1)
        self._database.execute("BEGIN IMMEDIATE")
        for row in self._database.execute("SELECT stage, role, provider, input, output, money FROM open").fetchall():
            self._database.execute(_ADD, (*row[:3], 1, row[3], row[4], 1, row[5]))
        self._database.execute("DELETE FROM open")
        self._database.execute("COMMIT")
        found = self._database.execute("SELECT sum(input + output), sum(money) FROM spent").fetchone()
        self._tokens, self._money = int(found[0] or 0), float(found[1] or 0.0)

    def reserve(self, role: str, provider: str, most: Usage, price: PriceSection | None) -> Reservation:
        """Sets aside the most that a request can take; waits while those under way may give enough back.

        Raises BudgetError when it can go beyond a limit.
        """
        with self._condition:
            while (found := self.offer(role, provider, most, price)) is None:
                self._condition.wait()
        return found

    def offer(self, role: str, provider: str, most: Usage, price: PriceSection | None) -> Reservation | None:
        """`reserve` without waiting: None when those under way may still give enough back."""
        serial = next(self._serials)
        if not self._limited:
            return self._under_way.setdefault(serial, Reservation(serial, None, role, provider, most, price))
        tokens, money = most.input + most.output, most.money(price)
        with self._condition:
            if self._ended is not None:
                raise self._ended
            if (short := self._short(tokens, money)) is not None:
                if not self._under_way:
                    raise BudgetError(short)
                return None
            self._open_tokens += tokens
            self._open_money += money
            row = (self._stage, role, provider, most.input, most.output, money)
            number = self._database.execute(
                "INSERT INTO open (stage, role, provider, input, output, money) VALUES (?, ?, ?, ?, ?, ?)", row
            ).lastrowid
            return self._under_way.setdefault(serial, Reservation(serial, number, role, provider, most, price))

    def settle(self, reserved: Reservation, took: Usage) -> None:
        """Books what a request took (nothing: a request that was refused), and gives the rest back. Nothing happens
        after `abandon`, which has booked it."""
        money = took.money(reserved.price)
        row = (self._stage, reserved.role, reserved.provider, 1, took.input, took.output, took.estimated, money)
        with self._condition:
            if self._under_way.pop(reserved.serial, None) is None:
                return
            if reserved.number is not None:
                self._open_tokens -= reserved.most.input + reserved.most.output
                self._open_money -= reserved.most.money(reserved.price)
                if not self._under_way:
                    self._open_money = 0.0  # sums of floats come back to nothing only nearly
            self._tokens += took.input + took.output
            self._money += money
            self._condition.notify_all()  # before anything is written, which a full disk may end
            if reserved.number is None:
                self._database.execute(_ADD, row)
                return
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.execute("DELETE FROM open WHERE id = ?", (reserved.number,))
                self._database.execute(_ADD, row)
                self._database.execute("COMMIT")
            except BaseException:  # the book then has it as under way, and the next start counts that in full
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def end(self, error: Exception) -> None:
        """Whoever waits for what others give back is told this error, since they may not get to give it back."""
        with self._condition:
            self._ended = error
            self._condition.notify_all()

    def abandon(self) -> None:
        """Books in full what is under way and will not be waited for: it may be charged."""
        for reserved in list(self._under_way.values()):
            self.settle(reserved, Usage(reserved.most.input, reserved.most.output, 1))

    def _short(self, tokens: int, money: float) -> str | None:
        """What to say when a request is too much; None when it fits."""
        for name, limit, spent, open_, more in (
            ("tokens", self._limits.tokens, self._tokens, self._open_tokens, tokens),
            ("money", self._limits.money, self._money, self._open_money, money),
        ):
            if limit is not None and spent + open_ + more > limit * (1 + 1e-12):
                return (
                    f"data.budget.{name}: {spent:.6g} of {limit:.6g} are spent, and the next question may take up to "
                    f"{more:.6g}. All answers so far are kept: raise the budget, and the same command goes on from here"
                )
        return None

    def report(self) -> dict[str, Any]:
        """Everything spent in this run, over all its starts: in all, and by stage, role and provider."""
        with self._condition:
            rows = self._database.execute("SELECT * FROM spent ORDER BY stage, role, provider").fetchall()
        names = ("stage", "role", "provider", "requests", "input", "output", "estimated", "money")
        lines = [dict(zip(names, row, strict=True)) for row in rows]
        total = {name: sum(line[name] for line in lines) for name in names[3:]}
        return {"total": total, "limits": self._limits.model_dump(), "by": lines}

    def close(self) -> None:
        with self._condition:
            self._database.close()
