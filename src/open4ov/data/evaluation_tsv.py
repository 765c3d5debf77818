"""Evaluation sets as VLMEvalKit keeps them: a TSV with `index`, `question`, and for pictures `image` or `image_path`.

`image` holds base64, the `index` of another row (at most 64 characters), or a list of either; `answer` may be a letter
that stands for one of the columns A, B, C, ... `image_path` names a file, or a list of files, below the TSV's own
folder or one that the user gave. Rows are read one at a time; what cannot be read of a row is listed.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import cast

from PIL import Image

from open4ov.errors import UserError
from open4ov.formats.places import find
from open4ov.formats.row import RowError
from open4ov.images import ImageError, open_image

_LONGEST_REFERENCE = 64
_OPTION = "data.hygiene.decontaminate_images"
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a picture is one field


@dataclass
class Row:
    """One question of an evaluation set, with its pictures decoded."""

    file: str
    index: str
    question: str
    answer: str | None
    options: list[str]
    images: list[Image.Image] = field(repr=False, default_factory=list[Image.Image])
    faults: list[str] = field(default_factory=list[str])

    @property
    def name(self) -> str:
        return f"{self.file}, index {self.index}"


def read(path: Path, folders: Sequence[Path] = (), max_pixels: int = 40_000_000) -> Iterator[Row]:
    """The rows of a TSV in order. `folders`: where the files of `image_path` may lie, beside the TSV's own folder.

    Raises UserError when the TSV or a folder is missing, the TSV is no UTF-8 text, or lacks a column.
    """
    roots = _roots(path, folders)
    references: dict[str, str] = {}
    for cells, letters in _cells(path):
        yield _row(path, cells, letters, references, roots, max_pixels)


def named(path: Path, folders: Sequence[Path] = ()) -> dict[str, Path | None]:
    """What the column `image_path` of a TSV names, and the file that it is; None where it cannot be had.

    Raises UserError as `read` does.
    """
    roots = _roots(path, folders)
    about = path.stat()
    files: dict[str, Path | None] = {}
    for name in _names(path, about.st_size, about.st_mtime_ns):
        try:
            files[name] = find(name, roots, _OPTION)
        except (ImageError, RowError):
            files[name] = None
    return files


@lru_cache(maxsize=64)
def _names(path: Path, size: int, modified: int) -> tuple[str, ...]:
    """Remembered as long as size and time stay the same: a run asks several times."""
    found: dict[str, None] = {}
    for cells, _ in _cells(path):
        if "image_path" not in cells:
            break
        if not (cells.get("image") or "").strip():
            found |= dict.fromkeys(_listed((cells.get("image_path") or "").strip()))
    return tuple(found)


def _roots(path: Path, folders: Sequence[Path]) -> list[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{_OPTION}: {folder} is no folder; name one with the pictures of an evaluation set")
    return [folder.resolve() for folder in (path.parent, *folders)]


def _cells(path: Path) -> Iterator[tuple[dict[str, str | None], list[str]]]:
    """Each row's cells by column, and the columns that hold options."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            columns = list(rows.fieldnames or ())
            for wanted in ("index", "question"):
                if wanted not in columns:
                    raise UserError(
                        f"{path}: no column {wanted!r}; an evaluation TSV has index, question, answer, and image or "
                        f"image_path (found: {', '.join(column[:30] for column in columns[:12]) or 'nothing'})"
                    )
            letters = [column for column in columns if len(column) == 1 and "A" <= column <= "Z"]
            for cells in rows:
                yield cells, letters
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file; name an evaluation TSV") from None
    except PermissionError:
        raise UserError(f"{path}: cannot be read (permission denied)") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no UTF-8 text; an evaluation TSV is tab-separated UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}: is no tab-separated table: {error}") from None


def _row(
    path: Path,
    cells: dict[str, str | None],
    letters: list[str],
    references: dict[str, str],
    roots: Sequence[Path],
    max_pixels: int,
) -> Row:
    index = (cells.get("index") or "").strip()
    options = [text for letter in letters if (text := (cells.get(letter) or "").strip())]
    row = Row(path.name, index, (cells.get("question") or "").strip(), cells.get("answer"), options)
    encoded = (cells.get("image") or "").strip()
    if len(encoded) > _LONGEST_REFERENCE:
        references[index] = encoded
    for item in _listed(encoded):
        if len(item) <= _LONGEST_REFERENCE:
            if item not in references:
                row.faults.append(f"its image refers to row {item!r}, which has none before it")
                continue
            inner = _listed(references[item])
        else:
            inner = [item]
        for one in inner:
            try:
                data = base64.b64decode("".join(one.split()), validate=True)
                row.images.append(open_image(data, max_pixels=max_pixels, name="its image"))
            except (binascii.Error, ValueError) as error:
                row.faults.append(str(error) if isinstance(error, ImageError) else "its image is not base64")
    if not encoded:
        for item in _listed((cells.get("image_path") or "").strip()):
            try:
                row.images.append(open_image(find(item, roots, _OPTION), max_pixels=max_pixels, name=item))
            except (ImageError, RowError) as error:
                row.faults.append(str(error))
    return row


def _listed(cell: str) -> list[str]:
    """A cell's items: a Python or JSON list of texts, or the cell itself."""
    if not cell:
        return []
    if cell.startswith("[") and cell.endswith("]"):
        try:
            found: object = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [cell]
        if isinstance(found, list):
            return [str(item) for item in cast("list[object]", found)]
    return [cell]
