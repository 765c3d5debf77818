"""The facts from which defects are chosen (defects.py), of any number of samples: in an SQLite file, not in memory.

The file is made anew each time: it is a by-product of chunks that are done, and losing it loses nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from open4ov.data.defects import MOST_ALIKE, Choice, Trait, choose, spoil
from open4ov.data.topics import Topic
from open4ov.sample import Sample

_GROUPS = 32  # of traits held in memory
_TRAITS = 2**15  # held in memory beside: most groups share theirs with others
_ROWS = 4096
_TABLES = """
CREATE TABLE traits (number INTEGER PRIMARY KEY, id TEXT, question INTEGER, content INTEGER, images INTEGER,
    language TEXT, speaks INTEGER, answers TEXT, abilities TEXT, type TEXT, domains TEXT);
CREATE INDEX by_type ON traits (type, language, number) WHERE type != '';
CREATE TABLE choices (place INTEGER PRIMARY KEY, kind TEXT, base INTEGER, other INTEGER, topic INTEGER);
CREATE TABLE records (number INTEGER PRIMARY KEY, record TEXT);
"""


def record(trait: Trait) -> list[Any]:
    """A trait as JSON can hold it, but for its number, which is its place."""
    return [trait.id, trait.question, trait.content, trait.images, trait.language, int(trait.speaks),
            json.dumps(sorted(trait.answers)), json.dumps(sorted(trait.abilities)),
            trait.type, json.dumps(sorted(trait.domains))]  # fmt: skip


class Index:
    """A `defects.Pool` on disk."""

    def __init__(self, path: Path, records: Iterable[Sequence[Any]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.executescript(_TABLES)
        rows = ((number, *values) for number, values in enumerate(records))
        self._size = self._insert("INSERT INTO traits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        for column in ("question", "content"):
            self._database.execute(f"CREATE INDEX by_{column} ON traits ({column}, number)")
        self._groups: OrderedDict[tuple[object, ...], list[Trait]] = OrderedDict()
        self._traits: OrderedDict[int, Trait] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def at(self, number: int) -> Trait:
        return self._trait(self._database.execute("SELECT * FROM traits WHERE number = ?", (number,)).fetchone())

    def alike(self, trait: Trait) -> Sequence[Trait]:
        return self._group("question = ?", trait.question)

    def twins(self, trait: Trait) -> Sequence[Trait]:
        return self._group("content = ?", trait.content)

    def kin(self, trait: Trait, language: str) -> Sequence[Trait]:
        return self._group("type != '' AND type = ? AND language = ?", trait.type, language)

    def _group(self, alike: str, *key: int | str) -> list[Trait]:
        held = self._groups.pop((alike, *key), None)
        if held is None:
            query = f"SELECT * FROM traits WHERE {alike} ORDER BY number LIMIT ?"
            held = [self._trait(row) for row in self._database.execute(query, (*key, MOST_ALIKE))]
        self._groups[alike, *key] = held
        if len(self._groups) > _GROUPS:
            self._groups.popitem(last=False)
        return held

    def _trait(self, row: tuple[Any, ...]) -> Trait:
        held = self._traits.get(row[0])
        if held is None:
            held = self._traits[row[0]] = _trait(row)
            if len(self._traits) > _TRAITS:
                self._traits.popitem(last=False)
        return held

    def inject(self, topics: Sequence[Topic], rate: float, seed: int, records: Iterable[str]) -> Iterator[Sample]:
        """`defects.inject` of the samples whose traits are here; `records` are the samples as JSON, in their order."""
        chosen = choose(self, topics, rate, seed)
        rows = ((place, one.kind, one.base, one.other, one.topic) for place, one in enumerate(chosen))
        self._insert("INSERT INTO choices VALUES (?, ?, ?, ?, ?)", rows)
        query = "SELECT base FROM choices UNION SELECT other FROM choices WHERE other IS NOT NULL"
        needed = np.fromiter((row[0] for row in self._database.execute(query)), np.int64)
        needed.sort()
        self._insert("INSERT INTO records VALUES (?, ?)", _of(needed, records))
        rows = self._database.execute("SELECT kind, base, other, topic FROM choices ORDER BY place")
        for kind, base, other, topic in cast("Iterable[tuple[str, int, int | None, int | None]]", rows):
            yield spoil(
                self._sample(base),
                Choice(kind, base, other, topic),
                None if other is None else self._sample(other),
                None if topic is None else topics[topic],
            )

    def _sample(self, number: int) -> Sample:
        row = self._database.execute("SELECT record FROM records WHERE number = ?", (number,)).fetchone()
        return Sample.model_validate_json(row[0])

    def _insert(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> int:
        """Enters rows, some thousand at a time, and gives their number."""
        written, source = 0, iter(rows)
        while batch := list(islice(source, _ROWS)):
            self._database.execute("BEGIN")
            self._database.executemany(statement, batch)
            self._database.execute("COMMIT")
            written += len(batch)
        return written

    def close(self) -> None:
        self._database.close()


def _of(needed: np.ndarray[Any, np.dtype[np.int64]], records: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The records of some numbers, given in order."""
    at = 0
    for number, text in enumerate(records):
        if at == len(needed):
            return
        if number == int(needed[at]):
            yield number, text
            at += 1


def _trait(row: tuple[Any, ...]) -> Trait:
    number, name, question, content, images, language, speaks, answers, abilities, type, domains = row
    return Trait(
        number, name, question, content, images, language, bool(speaks),
        frozenset(json.loads(answers)), frozenset(json.loads(abilities)), type, frozenset(json.loads(domains)),
    )  # fmt: skip
