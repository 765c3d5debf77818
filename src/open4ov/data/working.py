"""The working folder of data construction: what each step made of each chunk of images, so that nothing is done twice.

    STEP/000012.samples.parquet   samples in their order; other parts have other names
    STEP/000012.json              the chunk's facts: counts, what was skipped. Written last: the chunk is done

A chunk is whole or not there, so a process that was killed goes on behind the last whole one. The folder belongs to one
key of the stage (`run_dir.Place.scratch`), so what lies in it was made from the same inputs by the same recipe. Several
processes may work on different chunks at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from open4ov.store import atomic

Counts = dict[str, Any]
"""Figures that add up: numbers, lists, and dicts of such"""


class Work:
    """The folder at `root`; it may be one that several machines share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, step: str, number: int, part: str = "samples", kind: str = "parquet") -> Path:
        """Where a part of a chunk lies, whether or not it is there."""
        return self.root / step / f"{number:06d}.{part}.{kind}"

    def clear(self, step: str, number: int) -> None:
        """Takes away what an earlier try at a chunk left, which may be more than this one makes."""
        for path in (self.root / step).glob(f"{number:06d}.*"):
            path.unlink(missing_ok=True)

    def publish(self, step: str, number: int, facts: Mapping[str, Any]) -> None:
        """Ends a step's work on a chunk; its parts must be there."""
        with atomic(self.root / step / f"{number:06d}.json") as temporary:
            temporary.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")

    def write_rows(self, step: str, number: int, rows: Sequence[Any], part: str = "samples") -> None:
        """Keeps what belongs to a chunk's samples beside them: anything that JSON can hold, a row each."""
        with atomic(self.path(step, number, f"{part}.rows", "json")) as temporary:
            temporary.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")

    def rows(self, step: str, number: int, part: str = "samples") -> list[Any]:
        return json.loads(self.path(step, number, f"{part}.rows", "json").read_text(encoding="utf-8"))

    def done(self, step: str, number: int) -> bool:
        return (self.root / step / f"{number:06d}.json").exists()

    def facts(self, step: str, number: int) -> dict[str, Any]:
        """What `publish` was given. The chunk must be done."""
        text = (self.root / step / f"{number:06d}.json").read_text(encoding="utf-8")
        return cast("dict[str, Any]", json.loads(text))

    def every(self, step: str, chunks: int) -> Iterator[dict[str, Any]]:
        """The facts of all chunks, in order."""
        return (self.facts(step, number) for number in range(chunks))


class Listed(list[dict[str, str]]):
    """What was left out and why, as a list that is read from files each time it is walked: it may be long.

    A list, so that the JSON encoder takes it for one; only walking it and asking for its length mean anything.
    """

    def __init__(self, files: Sequence[Path], count: int) -> None:
        super().__init__()
        self._files, self._count = files, count

    def __iter__(self) -> Iterator[dict[str, str]]:
        for path in self._files:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0


def tally(report: Counts, part: str, **figures: Any) -> None:
    """Adds figures to a part of a report; what is counted by name is in order of names."""
    found: Counts = report.setdefault(part, {})
    add(found, figures)
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found[name] = dict(sorted(found[name].items()))


def add(into: Counts, more: Mapping[str, Any]) -> None:
    """Adds figures to others: numbers are added, lists joined, dicts entered."""
    for name, value in more.items():
        if isinstance(value, Mapping):
            add(into.setdefault(name, {}), cast("Mapping[str, Any]", value))
        elif isinstance(value, list):
            into.setdefault(name, []).extend(cast("list[Any]", value))
        else:
            into[name] = into.get(name, 0) + value
