"""Which of a sample's answers were fresh and which had been kept from before, for `open4ov data trace`.

It lies beside the kept answers in the run's folder (`asked/steps.sqlite`) and not in the samples: the same recipe gives
the same samples, whether the run went through at once or was taken up again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from open4ov.mllm.database import connect
from open4ov.sample import Sample

FILE = Path("asked") / "steps.sqlite"
_SCHEMA = "CREATE TABLE steps (sample TEXT PRIMARY KEY, kept TEXT NOT NULL) WITHOUT ROWID"


def settle(samples: Iterable[Sample], place: Path | None) -> None:
    """Takes `kept` out of the steps of samples that are about to be written, and notes it in the folder of the run
    (None: it is forgotten)."""
    rows: list[tuple[str, str]] = []
    for sample in samples:
        if any(step.kept is not None for step in sample.steps):
            rows.append((sample.id, "".join({None: "-", True: "k", False: "f"}[step.kept] for step in sample.steps)))
            sample.steps = [step.model_copy(update={"kept": None}) for step in sample.steps]
    if not rows or place is None:
        return
    database = connect(place / FILE, _SCHEMA, 1)
    try:
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT OR REPLACE INTO steps VALUES (?, ?)", rows)
        database.execute("COMMIT")
    finally:
        database.close()


def lookup(place: Path, sample: str) -> list[bool | None]:
    """For each step of a sample whether its answer had been kept; empty where nobody noted it."""
    path = place / FILE
    if not path.is_file():
        return []
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            row = database.execute("SELECT kept FROM steps WHERE sample = ?", (sample,)).fetchone()
        finally:
            database.close()
    except sqlite3.Error:
        return []
    return [{"k": True, "f": False}.get(mark) for mark in row[0]] if row else []
