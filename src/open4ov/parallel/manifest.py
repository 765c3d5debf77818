"""What files a checkpoint consists of, with the SHA-256 of each: nothing of it is read before these match."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from open4ov.checkpoints import sync
from open4ov.errors import UserError
from open4ov.run_dir import read_json

NAME = "manifest.json"
Entry = dict[str, Any]
"""sha256 and bytes"""


def entry(path: Path) -> Entry:
    """A file's digest; its bytes are on the disk when this returns."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def write(folder: Path, files: Mapping[str, Entry]) -> None:
    """`files`: entries by the names below the folder."""
    path = folder / NAME
    path.write_text(json.dumps({"files": dict(sorted(files.items()))}, indent=1) + "\n")
    for place in (path, *{(folder / name).parent for name in files}, folder):
        sync(place)


def read(folder: Path) -> dict[str, Entry]:
    """Raises UserError for a folder without a readable manifest."""
    files = (read_json(folder / NAME) or {}).get("files")
    if not isinstance(files, dict):
        raise UserError(f"{folder / NAME}: is missing or damaged; {_remedy(folder)}")
    return files  # pyright: ignore[reportUnknownVariableType]


def faults(folder: Path, files: Mapping[str, Entry], names: Iterable[str]) -> list[str]:
    """What is wrong with those of the files, each named."""
    found: list[str] = []
    for name in names:
        path = folder / name
        if not path.is_file():
            found.append(f"{path}: is missing")
        elif path.stat().st_size != files[name]["bytes"]:
            found.append(f"{path}: has {path.stat().st_size} bytes, not the {files[name]['bytes']} that were written")
        elif entry(path)["sha256"] != files[name]["sha256"]:
            found.append(f"{path}: its bytes are not those that were written (SHA-256)")
    return found


def refused(folder: Path, found: list[str], most: int = 8) -> UserError:
    """The error of a checkpoint whose files are not what they were."""
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return UserError("\n".join([*found[:most], *more, f"{folder}: damaged; {_remedy(folder)}"]))


def _remedy(folder: Path) -> str:
    return (
        f"delete {folder}, and the training begins anew (or goes on from an older checkpoint, where a kill or you have "
        "kept one: a whole one replaces those before it)"
    )
