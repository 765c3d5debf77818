"""How files are written: beside their place, and renamed into it, so that a reader never meets half a file."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from open4ov.errors import UserError

TEMPORARY = ".part-"
"""How the names of half-written files begin."""

UNFINISHED = ".unfinished"
"""A file in a folder that is being made by more than one rename."""

_ordinals = count()  # two threads may write the same image at once


@contextmanager
def atomic(path: Path) -> Generator[Path]:
    """A temporary path in the same folder, renamed to `path` if the block ends well and removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{next(_ordinals)}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Puts a file that never changes at a second place, whole or not at all: as a hard link where the file system can,
    so that it takes no room twice, else as a copy. What is there already stays."""
    if target.exists():
        return
    with atomic(target) as temporary:
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)


def write_json(path: Path, value: object) -> None:
    """Writes a value as JSON that people can read, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def sweep(root: Path) -> None:
    """Removes what killed writers left half-written below `root`: files, and folders of checkpoints. Only while nobody
    else writes there."""
    for path in list(root.rglob(f"{TEMPORARY}*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def unfinished(folder: Path) -> Generator[None]:
    """Marks a folder as half made while the block runs, and for good when it ends badly or the process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).touch()
    yield
    (folder / UNFINISHED).unlink(missing_ok=True)


def check_finished(folder: Path) -> None:
    """Raises UserError for a folder that is half made: what is in it may be a part, or old and new together."""
    if (folder / UNFINISHED).exists():
        raise UserError(f"{folder}: is not finished; give the command that makes it again, and it goes on")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or what caused it, says that no more can be written (disk, quota or file-size limit)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if re.search(r"No space left on device|os error 2[78]\)|disk is full|Disk quota exceeded", str(error)):
            return True  # Rust (safetensors) and SQLite say it in words only
        error = error.__cause__ or error.__context__
    return False
