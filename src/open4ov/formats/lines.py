"""JSON rows from a file, one at a time: JSON lines, or one JSON array however it is laid out.

A line that cannot be read is given as a `Bad` and the next one goes on. In an array nobody can tell where a broken
object ends, so a `Bad` there is the last thing given, and says so.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

MAX_ROW = 2**28
"""Bytes of one row; more is refused (images may be in it as data URLs)."""
_CHUNK = 2**20


@dataclass(frozen=True)
class Bad:
    """A row that is none, and why."""

    reason: str


def read(path: Path) -> Iterator[tuple[str, dict[str, Any] | Bad]]:
    """Place (`line 7`, `row 3 (line 7)`) and object of each row of a file."""
    with path.open("rb") as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        start = file.tell()
        while (first := file.read(1)) and first.isspace():
            pass
        file.seek(start)
        yield from _array(file) if first == b"[" else _lines(file)


class Rows:
    """A file that rows are written to one by one: as lines, or as an array with one row a line."""

    def __init__(self, path: Path, array: bool) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._array = array
        self._begun = False

    def add(self, row: dict[str, Any]) -> None:
        """Writes a row."""
        if self._array:
            self._file.write(",\n" if self._begun else "[\n")
        self._begun = True
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + ("" if self._array else "\n"))

    def close(self) -> None:
        """Ends the file."""
        if self._array:
            self._file.write("\n]\n" if self._begun else "[]\n")
        self._file.close()


def parse(text: str | bytes) -> dict[str, Any] | Bad:
    """One JSON object, in which NaN and Infinity have no place."""
    try:
        found = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        return Bad("JSON nested too deeply")
    except ValueError as error:
        return Bad(f"no JSON: {error}")
    if not isinstance(found, dict):
        return Bad(f"a JSON {_NAMES.get(type(cast(object, found)), 'value')}, not an object")
    return cast("dict[str, Any]", found)


_NAMES: dict[type, str] = {list: "array", str: "string", int: "number", float: "number", bool: "boolean"}


def _lines(file: BinaryIO) -> Iterator[tuple[str, dict[str, Any] | Bad]]:
    number = 0
    while line := file.readline(MAX_ROW):
        number += 1
        place = f"line {number}"
        if len(line) == MAX_ROW and not line.endswith(b"\n"):
            while (rest := file.readline(_CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield place, Bad(f"a line of more than {MAX_ROW} bytes")
        elif line.strip():
            yield place, parse(line)


def _array(file: BinaryIO) -> Iterator[tuple[str, dict[str, Any] | Bad]]:
    decoder, scanner = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder(parse_constant=_refuse)
    text, at, line, row, ended = "", 0, 1, 0, False
    more = _CHUNK

    def place() -> str:
        return f"row {row + 1} (line {line})"

    def grow() -> None:
        nonlocal text, at, ended
        chunk = file.read(more)
        ended = len(chunk) < more
        text, at = text[at:] + decoder.decode(chunk, ended), 0

    try:
        grow()
        at = text.index("[") + 1
        line += text.count("\n", 0, at)
        while True:
            start = at
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
            line += text.count("\n", start, at)
            if at == len(text):
                if ended:
                    yield (
                        f"row {row + 1} (line {line})",
                        Bad("the file ends inside its array; what may have followed is lost"),
                    )
                    return
                grow()
                continue
            if text[at] == "]":
                return
            try:
                found, end = scanner.raw_decode(text, at)
            except RecursionError:
                yield (
                    f"row {row + 1} (line {line})",
                    Bad("JSON nested too deeply; the rest of the array cannot be read"),
                )
                return
            except ValueError as error:
                if not ended and len(text) - at < MAX_ROW:
                    more = max(_CHUNK, len(text) - at)  # twice as much each time: no row is read over and over
                    grow()
                    continue
                yield place(), Bad(f"no JSON: {error}; the rest of the array cannot be read")
                return
            more = _CHUNK
            yield (
                f"row {row + 1} (line {line})",
                found if isinstance(found, dict) else Bad("a row that is no JSON object"),
            )
            line, row = line + text.count("\n", at, end), row + 1
            at = end
    except UnicodeDecodeError as error:
        yield place(), Bad(f"no UTF-8: {error.reason}; the rest of the array cannot be read")


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")
