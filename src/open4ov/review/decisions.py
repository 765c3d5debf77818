"""What experts decide about samples: one file of JSON lines a reviewer, appended to and never rewritten.

The last line about a sample counts. A line is on the disk before the reviewer sees the next sample; one that a kill cut
short is dropped when the file is opened again.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from open4ov import word_file
from open4ov.errors import UserError

NAME = re.compile(r"[\w.-]{1,64}")
Verdict = Literal["accept", "fix", "reject"]


class Fix(NamedTuple):
    """What is to become another; None: stays as it is."""

    question: str | None
    answer: str | None
    reference: str | None
    aliases: tuple[str, ...] | None


class Decision(BaseModel):
    """One reviewer's word on one sample. A fix has at least one of: a new question, a new answer (what the sample's
    conversation responds), a new `reference` (the short answer that a verifier compares with), new `aliases` of it."""

    model_config = ConfigDict(extra="forbid")

    sample: str
    verdict: Verdict
    comment: str = Field(default="", max_length=10_000)
    question: str | None = Field(default=None, max_length=100_000)
    answer: str | None = Field(default=None, max_length=100_000)
    reference: str | None = Field(default=None, max_length=100_000)
    aliases: list[str] | None = Field(default=None, max_length=1000)

    @property
    def fix(self) -> Fix:
        return Fix(self.question, self.answer, self.reference, None if self.aliases is None else tuple(self.aliases))

    @model_validator(mode="after")
    def _fixed(self) -> Decision:
        if (self.verdict == "fix") != any(value is not None for value in self.fix):
            raise ValueError("a fix needs a new question, answer or reference, and nothing else has one")
        try:
            "".join((self.sample, *(self.aliases or ()))).encode()  # texts with a bound are checked by it
        except UnicodeEncodeError:
            raise ValueError("holds half of a character (a lone surrogate), which no text file can hold") from None
        told = [text for text in (self.question, self.answer, self.reference) if text is not None]
        if any(not text.strip() for text in (*told, *(self.aliases or ()))):
            raise ValueError("a new question, answer or reference must not be empty; reject the sample instead")
        return self


class Reviewer:
    """The decisions of one person, in `folder/NAME.jsonl`. Raises UserError for a name that is no file's, and for a
    file that holds something else, by line."""

    def __init__(self, folder: Path, name: str) -> None:
        if not NAME.fullmatch(name) or name.startswith("."):
            raise UserError(f"reviewer {name!r}: give a name of letters, digits, '.', '_' and '-'")
        self.name, self.path = name, folder / f"{name}.jsonl"
        self._lock = threading.Lock()
        self.decisions = _read(self.path, mend=True)

    def decide(self, decision: Decision) -> None:
        """Keeps a decision; it is on the disk when this returns."""
        line = json.dumps(decision.model_dump(exclude_none=True), ensure_ascii=False)
        with self._lock:
            word_file.add(self.path, line)
            self.decisions[decision.sample] = decision


class Others:
    """The decisions of all reviewers of a folder, one of whom decides here; the files of the others are read again when
    they have changed."""

    def __init__(self, folder: Path, own: Reviewer) -> None:
        self._folder, self._own = folder, own
        self._known: dict[Path, tuple[tuple[int, int], dict[str, Decision]]] = {}

    def read(self) -> dict[str, dict[str, Decision]]:
        """By their names. Raises UserError as `read` does."""
        found: dict[str, dict[str, Decision]] = {}
        for path in _files(self._folder):
            about = path.stat()
            if path.stem != self._own.name and self._known.get(path, (None,))[0] != (about.st_size, about.st_mtime_ns):
                self._known[path] = (about.st_size, about.st_mtime_ns), _read(path)
            found[path.stem] = self._own.decisions if path.stem == self._own.name else self._known[path][1]
        return found


def read(folder: Path) -> dict[str, dict[str, Decision]]:
    """The decisions of all reviewers of a folder, by their names."""
    return {path.stem: _read(path) for path in _files(folder)}


def read_file(path: Path) -> dict[str, dict[str, Decision]]:
    """The decisions of one reviewer's file, by the reviewer's name."""
    return {path.stem: _read(path)}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl")) if folder.is_dir() else []


def _read(path: Path, mend: bool = False) -> dict[str, Decision]:
    return {one.sample: one for one in word_file.read(path, Decision, "a decision of a review", mend)}


def agreement(reviews: Mapping[str, Mapping[str, Decision]]) -> list[dict[str, Any]]:
    """For each two reviewers: `samples` that both have decided about, the `equal` share of them, and Cohen's `kappa`
    (None where chance alone would make them agree, or nothing is shared)."""
    found: list[dict[str, Any]] = []
    for (a, first), (b, second) in combinations(sorted(reviews.items()), 2):
        pairs = [(first[sample].verdict, second[sample].verdict) for sample in first.keys() & second.keys()]
        equal = sum(x == y for x, y in pairs) / len(pairs) if pairs else None
        found.append(
            {"reviewers": [a, b], "samples": len(pairs), "equal": equal, "kappa": kappa(pairs) if pairs else None}
        )
    return found


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two reviewers' verdicts (Cohen 1960): how far they agree beyond chance. None when both always
    said one and the same."""
    total = len(pairs)
    observed = sum(x == y for x, y in pairs) / total
    first, second = Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    chance = sum(first[verdict] * second[verdict] for verdict in first) / total**2
    return None if chance == 1 else (observed - chance) / (1 - chance)
