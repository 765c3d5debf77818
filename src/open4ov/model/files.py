"""Files that are read as JSON objects, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from open4ov.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """Raises UserError when the file is missing or is not a JSON object."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a Hugging Face directory of a Qwen3-VL") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return raw


class replacing:
    """Hands out a temporary path beside `path`; moves it there when the block ends well, removes it otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> str:
        handle, self.temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        os.close(handle)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            Path(self.temporary).unlink(missing_ok=True)
            return
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(self.temporary, 0o666 & ~umask)
        with open(self.temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.temporary, self.path)


def write_atomic(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        Path(temporary).write_bytes(content)
