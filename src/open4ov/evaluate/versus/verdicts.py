"""Who found which answer better: one file of JSON lines a judge, appended to and never rewritten.

The last line about a pair counts. A line is on the disk before the judge sees the next pair; one that a kill cut short
is dropped when the file is opened again.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from open4ov import word_file
from open4ov.errors import UserError

NAME = re.compile(r"[\w-][\w.-]{0,63}")
Choice = Literal["left", "right", "tie"]


class Verdict(BaseModel):
    """One judge's word on one pair, by its sides. `reason`: what a model says of it."""

    model_config = ConfigDict(extra="forbid")

    pair: str
    choice: Choice
    reason: str = ""


class Judge:
    """The verdicts of one judge, in `folder/NAME.jsonl`; `verdicts` by pair. Raises UserError for a name that is no
    file's, and for a file that holds something else, by line."""

    def __init__(self, folder: Path, name: str) -> None:
        if not NAME.fullmatch(name):
            raise UserError(f"judge {name!r}: give a name of letters, digits, '.', '_' and '-'")
        self.name, self.path = name, folder / f"{name}.jsonl"
        self._lock = threading.Lock()
        self.verdicts = _read(self.path, mend=True)

    def decide(self, verdict: Verdict) -> None:
        """Keeps a verdict; it is on the disk when this returns."""
        with self._lock:
            word_file.add(self.path, verdict.model_dump_json(exclude_defaults=True))
            self.verdicts[verdict.pair] = verdict


def read(folder: Path) -> dict[str, dict[str, Verdict]]:
    """The verdicts of all judges of a folder, by their names. Raises UserError as `Judge` does."""
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    return {path.stem: _read(path) for path in files}


def _read(path: Path, mend: bool = False) -> dict[str, Verdict]:
    return {one.pair: one for one in word_file.read(path, Verdict, "a verdict", mend)}
