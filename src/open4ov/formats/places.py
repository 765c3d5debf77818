"""Where a file is that a row names: below folders that the user gave, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from open4ov.formats.row import RowError
from open4ov.images import ImageError


def find(name: str, roots: Sequence[Path], option: str) -> Path:
    """The file that a row calls `name`, below one of `roots` (resolved folders); links do not lead out of them.

    `option` is what names further folders, for the message. Raises RowError when it lies elsewhere or is an address,
    ImageError when it is not there.
    """
    if "://" in name:
        if not name.startswith("file:///"):
            raise RowError(f"{short(name)}: an address; images are not fetched, load it into a folder first")
        name = unquote(name[len("file://") :])
    if "\0" in name:
        raise RowError("an image's path holds a zero byte")
    outside = False
    for root in roots:
        try:
            path = (root / name).resolve()
            inside = any(path.is_relative_to(allowed) for allowed in roots)
            if inside and path.is_file():
                return path
        except (OSError, RuntimeError) as error:
            raise ImageError(f"{short(name)}: {getattr(error, 'strerror', None) or error}") from None
        outside |= not inside
    if outside:
        raise RowError(f"{short(name)}: lies outside of the folders given; name its folder with {option}")
    raise ImageError(f"{short(name)}: no such file")


def short(name: str) -> str:
    """A name as messages have it."""
    return name if len(name) <= 120 else name[:100] + "..."
