"""Answers that were paid for, kept in SQLite and found again by the content of the question.

The key is a digest of everything that decides an answer: who is asked (role, endpoint, model), parameters, schema,
prompt version, the messages as they are sent, and the SHA-256 of each image. Only answers that fit their schema are
kept; errors and refusals never are, so a later run asks again. The idea of refusing poisoned answers is lmms-eval's;
its key is a task and document id, ours the content.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov.mllm.database import connect

_SCHEMA = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY, answer TEXT NOT NULL, input INTEGER NOT NULL, output INTEGER NOT NULL,
    estimated INTEGER NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL, at REAL NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Kept:
    """An answer as JSON text, and the tokens that it took; `estimated` where the endpoint did not count them."""

    answer: str
    input: int
    output: int
    estimated: bool


def key(**parts: Any) -> bytes:
    """The digest under which an answer is kept. Equal parts, whatever their order, give equal keys."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


class AnswerCache:
    """`answers.sqlite` in a folder. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "answers.sqlite"
        self._lock = threading.Lock()
        self._database = connect(self.path, _SCHEMA, 1)

    @staticmethod
    def of_before(folder: Path) -> AnswerCache | None:
        """The answers of a folder that has some; nothing is made."""
        return AnswerCache(folder) if (folder / "answers.sqlite").is_file() else None

    def get(self, key: bytes) -> Kept | None:
        with self._lock:
            row = self._database.execute(
                "SELECT answer, input, output, estimated FROM answers WHERE key = ?", (key,)
            ).fetchone()
        return Kept(row[0], row[1], row[2], bool(row[3])) if row else None

    def put(self, key: bytes, kept: Kept, model: str, prompt: str) -> None:
        """Keeps an answer that fits. When this returns, no kill loses it."""
        row = (key, kept.answer, kept.input, kept.output, kept.estimated, model, prompt, time.time())
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def __len__(self) -> int:
        with self._lock:
            return self._database.execute("SELECT count(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            self._database.close()
