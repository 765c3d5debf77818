"""The book of rollouts: what a model has answered is kept on disk, so that nobody asks it the same again.

Grading writes it, and whoever needs the same responses (RL's filter of prompts, a later grading with more rollouts)
reads them here. A response is kept under what decides it: the model, the prompt with its pictures, and how it is
sampled; and under its number, as response i has a random stream of its own. Whether it is right is kept apart, under
the verifier and the reference: another verifier judges the same responses.

The book is an SQLite file to which is only added. A batch is one transaction: a killed process loses the batch under
way at most, and never leaves half of one.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from open4ov.mllm.database import connect

_SCHEMA = """
CREATE TABLE askings (key BLOB PRIMARY KEY, model TEXT NOT NULL, prompt TEXT NOT NULL, sampling TEXT NOT NULL)
WITHOUT ROWID;
CREATE TABLE rollouts (
    key BLOB NOT NULL, number INTEGER NOT NULL, response TEXT NOT NULL, tokens INTEGER NOT NULL, finish TEXT NOT NULL,
    PRIMARY KEY (key, number)
) WITHOUT ROWID;
CREATE TABLE verdicts (
    key BLOB NOT NULL, number INTEGER NOT NULL, rule BLOB NOT NULL, correct INTEGER NOT NULL,
    PRIMARY KEY (key, number, rule)
) WITHOUT ROWID;
CREATE TABLE costs (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, rollouts INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    computed_tokens INTEGER NOT NULL, response_tokens INTEGER NOT NULL, images INTEGER NOT NULL, seconds REAL NOT NULL,
    at REAL NOT NULL
)
"""
_VERSION = 1
NAME = "rollouts.sqlite"
FOLDER = "rollouts"
"""Of a run's directory: its book, which all its stages share"""


@dataclass(frozen=True)
class Rollout:
    """One sampled response: its text, its tokens (the closing one included), and why it ended (`Completion`)."""

    number: int
    response: str
    tokens: int
    finish: str

    @property
    def text(self) -> str:
        """The response, as `Completion` calls it."""
        return self.response

    @property
    def finish_reason(self) -> str:
        """Why it ended, as `Completion` calls it."""
        return self.finish

    @property
    def truncated(self) -> bool:
        """Whether it was cut off at the most tokens that it could have."""
        return self.finish == "length"


@dataclass(frozen=True)
class Cost:
    """What rollouts took. `prompt_tokens`: of the prompts, once for each response; `computed_tokens`: those of them
    that were not found computed already; `images`: pictures that passed the vision tower; `found`: rollouts that were
    in the book."""

    rollouts: int = 0
    found: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    response_tokens: int = 0
    images: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        sums = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Cost)}
        return Cost(**sums)

    def figures(self) -> dict[str, Any]:
        """For a report."""
        return asdict(replace(self, seconds=round(self.seconds, 3)))


@dataclass(frozen=True)
class Asking:
    """What a response depends on, and the `key` that comes of it. `prompt`: a digest of messages and pictures."""

    model: str
    prompt: str
    sampling: Mapping[str, Any]

    @property
    def key(self) -> bytes:
        parts = {"model": self.model, "prompt": self.prompt, "sampling": dict(self.sampling)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def rule_key(identity: str, answer: str, aliases: Sequence[str]) -> bytes:
    """Under what a verdict is kept: which verifier, and the reference that it compared with."""
    return hashlib.sha256(json.dumps([identity, answer, list(aliases)]).encode()).digest()


class Book:
    """`rollouts.sqlite` in a folder; None: a book in memory. Several processes may use it at once.

    Raises UserError for a file that is damaged or of another version.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._database = connect(folder / NAME if folder else None, _SCHEMA, _VERSION)

    def rollouts(self, key: bytes, count: int) -> list[Rollout]:
        """Those with the numbers 0 to count - 1 that are there, as far as none is missing before them."""
        with self._lock:
            rows = self._database.execute(
                "SELECT number, response, tokens, finish FROM rollouts WHERE key = ? AND number < ? ORDER BY number",
                (key, count),
            ).fetchall()
        return [Rollout(*row) for place, row in enumerate(rows) if row[0] == place]

    def add(self, rollouts: Iterable[tuple[Asking, Sequence[Rollout]]], cost: Cost) -> None:
        """Keeps a batch, all of it or nothing. When this returns, no kill loses it. What is there already stays."""
        askings: list[tuple[object, ...]] = []
        rows: list[tuple[object, ...]] = []
        model = ""
        for asking, group in rollouts:
            key, model = asking.key, asking.model
            askings.append((key, model, asking.prompt, json.dumps(dict(asking.sampling), sort_keys=True)))
            rows += [(key, one.number, one.response, one.tokens, one.finish) for one in group]
        said = (model, cost.rollouts, cost.prompt_tokens, cost.computed_tokens, cost.response_tokens, cost.images)
        with self._lock, _transaction(self._database):
            self._database.executemany("INSERT OR IGNORE INTO askings VALUES (?, ?, ?, ?)", askings)
            self._database.executemany("INSERT OR IGNORE INTO rollouts VALUES (?, ?, ?, ?, ?)", rows)
            self._database.execute(
                "INSERT INTO costs VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", (*said, cost.seconds, time.time())
            )

    def verdict(self, key: bytes, number: int, rule: bytes) -> bool | None:
        """What a verifier has said of a response; None when it has not been asked."""
        with self._lock:
            row = self._database.execute(
                "SELECT correct FROM verdicts WHERE key = ? AND number = ? AND rule = ?", (key, number, rule)
            ).fetchone()
        return bool(row[0]) if row else None

    def judged(self, verdicts: Iterable[tuple[bytes, int, bytes, bool]]) -> None:
        """Keeps verdicts: (key, number, rule, whether it is right)."""
        with self._lock, _transaction(self._database):
            self._database.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?)", verdicts)

    def cost(self, model: str) -> Cost:
        """What all that the book holds of a model has taken, killed runs included."""
        with self._lock:
            row = self._database.execute(
                "SELECT sum(rollouts), sum(prompt_tokens), sum(computed_tokens), sum(response_tokens), sum(images), "
                "sum(seconds) FROM costs WHERE model = ?",
                (model,),
            ).fetchone()
        names = ("rollouts", "prompt_tokens", "computed_tokens", "response_tokens", "images", "seconds")
        return Cost(**{name: value or 0 for name, value in zip(names, row, strict=True)})

    def __len__(self) -> int:
        with self._lock:
            return self._database.execute("SELECT count(*) FROM rollouts").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            self._database.close()


class _transaction:
    """All of the statements in the block, or none."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    def __enter__(self) -> None:
        self.database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.database.execute("COMMIT")
        else:
            with suppress(sqlite3.Error):  # a full disk has ended the transaction already
                self.database.execute("ROLLBACK")
