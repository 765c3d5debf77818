"""The rows of an evaluation file: VLMEvalKit's TSV, or JSON lines. One row at a time, each with its place in the file.

A TSV's cells are texts, and empty ones count as not there. What is wrong with a row is told with file and line; what is
wrong with the whole file is a UserError. How a file is read, its ending says; what is asked of it, never.
"""

from __future__ import annotations

import ast
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from open4ov.errors import UserError
from open4ov.evaluate.item import Fault

ENDINGS = (".tsv", ".jsonl")
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a picture is one field

Row = dict[str, Any]


def rows(path: Path, columns: Sequence[str] = ()) -> Iterator[tuple[str, Row] | Fault]:
    """Place and fields of each row, or what is wrong with it. `columns`: those that there must be.

    Raises UserError for a file that is missing, of another kind, no UTF-8 text, without a row, or lacks a column.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: an evaluation file is a .tsv (VLMEvalKit's columns) or a .jsonl")
    count = 0
    try:
        for found in (_tsv if path.suffix == ".tsv" else _jsonl)(path, columns):
            count += 1
            yield found
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file; name an evaluation file") from None
    except PermissionError:
        raise UserError(f"{path}: cannot be read (permission denied)") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text (byte {error.start} of a block); save it as UTF-8") from None
    if not count:
        raise UserError(f"{path}: has no rows")


def listed(cell: object) -> list[Any] | None:
    """The items of a list, or of text that is a JSON or Python list; None for anything else."""
    if isinstance(cell, list):
        return cast("list[Any]", cell)
    if not (isinstance(cell, str) and cell.startswith("[") and cell.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list):
            return cast("list[Any]", found)
    return None


def _tsv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row] | Fault]:
    with path.open(encoding="utf-8-sig", newline="") as text:
        table = csv.reader(text, delimiter="\t")
        line = 1
        try:
            names = next(table, list[str]())
            _check(path, names, columns)
            line = table.line_num + 1
            for cells in table:
                place, line = f"{path}, line {line}", table.line_num + 1
                if len(cells) != len(names):
                    if cells:
                        yield Fault(place, f"{len(cells)} cells under {len(names)} columns")
                    continue
                yield place, {name: cell for name, cell in zip(names, cells, strict=True) if cell}
        except csv.Error as error:
            yield Fault(f"{path}, line {line}", f"damaged, what follows is lost: {error}")


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row] | Fault]:
    with path.open(encoding="utf-8-sig") as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Fault(place, f"no JSON: {' '.join(str(error).split())}")
                continue
            if not isinstance(row, dict):
                yield Fault(place, "no JSON object")
                continue
            fields = cast("Row", row)
            lacking = [name for name in columns if name not in fields]
            if lacking:
                yield Fault(place, f"no field {', '.join(map(repr, lacking))} (found: {_told(list(fields))})")
                continue
            yield place, {name: value for name, value in fields.items() if value not in (None, "")}


def _check(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    lacking = [name for name in columns if name not in names and not (name == "image" and "image_path" in names)]
    if lacking:
        raise UserError(f"{path}: no column {', '.join(map(repr, lacking))} (found: {_told(names)})")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column {', '.join(map(repr, twice))} stands there twice")


def _told(names: Sequence[str]) -> str:
    return ", ".join(name[:30] for name in names[:14]) or "nothing"
