"""The pictures of an evaluation file's rows: base64 in the row, in the row it refers to, or files beside it.

They are found and hashed here, and decoded only when somebody looks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from open4ov.evaluate import tables
from open4ov.evaluate.item import Fault
from open4ov.evaluate.tables import Row
from open4ov.formats.pictures import from_base64
from open4ov.formats.places import find
from open4ov.formats.row import RowError
from open4ov.images import ImageError, open_image
from open4ov.mllm.asked import Picture

REFERENCE = 64
"""An `image` of at most so many characters is the index of another row"""
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class SetPictures:
    """Of the file `path`. `folders`: where files of `image_path` may lie, beside its own; `frames`: most of a video."""

    def __init__(self, path: Path, folders: Sequence[Path], frames: int) -> None:
        self._path, self._frames = path, frames
        self._roots = [folder.resolve() for folder in (path.parent, *folders)]
        self._shared: dict[str, list[str]] = {}

    def referred(self, row: Row) -> set[str]:
        """Indices of other rows whose pictures this one has."""
        return {cell for cell in _cells(row) if len(cell) <= REFERENCE}

    def share(self, wanted: set[str]) -> None:
        """Keeps the pictures of the rows with these indices."""
        for found in tables.rows(self._path):
            if not isinstance(found, Fault) and (index := str(found[1].get("index"))) in wanted:
                self._shared.setdefault(index, [cell for cell in _cells(found[1]) if len(cell) > REFERENCE])

    def of(self, row: Row) -> list[Picture]:
        """Raises RowError or ImageError for one that is not there or no base64."""
        found: list[Picture] = []
        for cell in _cells(row):
            if len(cell) > REFERENCE:
                found.append(_encoded(cell))
            elif shared := self._shared.get(cell):
                found += [_encoded(one) for one in shared]
            else:
                raise RowError(f"its image, {cell!r}, is neither base64 nor the index of a row with a picture")
        if not found:
            paths = row.get("image_path")
            for name in tables.listed(paths) or ([paths] if paths else []):
                found.append(_lying(find(str(name), self._roots, "--image-dir")))
        return found

    def film(self, row: Row) -> tuple[list[Picture], list[float]]:
        """The frames of a row's video, evenly from the first to the last, and when each was taken: a second apart."""
        name = str(row.get("video", ""))
        stem = re.sub(r"\.(mp4|avi|mkv|webm|mov)$", "", name)
        folder = (self._roots[0] / "frames" / stem).resolve()
        if not name or not folder.is_relative_to(self._roots[0]) or not folder.is_dir():
            raise RowError(f"no folder of frames frames/{stem}/ beside the file")
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
        if not files:
            raise RowError(f"frames/{stem}/ holds no pictures")
        wanted = min(self._frames, len(files))
        chosen = [round(step * (len(files) - 1) / max(wanted - 1, 1)) for step in range(wanted)]
        return [_lying(files[place]) for place in chosen], [float(place) for place in chosen]


def _cells(row: Row) -> list[str]:
    image = row.get("image")
    if image is None:
        return []
    return [str(one) for one in tables.listed(image) or [image]]


def _encoded(cell: str) -> Picture:
    data = from_base64(cell.partition(",")[2] if cell.startswith("data:") else cell, "its image")
    return Picture(hashlib.sha256(data).hexdigest(), partial(open_image, data, name="its image"))


def _lying(path: Path) -> Picture:
    try:
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from None
    return Picture(sha, partial(open_image, path))
