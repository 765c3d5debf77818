"""What people or models decide, one JSON line each, in a file that is appended to and never rewritten.

A line is on the disk when it was added; one that a kill cut short is not read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from open4ov.errors import UserError

M = TypeVar("M", bound=BaseModel)


def read(path: Path, kind: type[M], what: str, mend: bool = False) -> list[M]:
    """The file's lines; none where there is no file. With `mend` what a kill cut short is taken off it: only for who
    writes there next, since another's line may still be under way. Raises UserError for a line that is not `what`."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if mend and whole < len(content):
        os.truncate(path, whole)
    found: list[M] = []
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError as error:
            reason = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise UserError(f"{path}:{number}: not {what} ({reason}); mend or remove the line") from None
    return found


def add(path: Path, line: str) -> None:
    """Appends a line; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
