"""Functions that a recipe names: a reward, a verifier, an embedder. Another text of one is another function."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.run_dir import fingerprint


def function(path: str, key: str) -> Callable[..., Any]:
    """The function that a recipe names as `package.module:function`. Raises UserError, naming the recipe's `key`."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}: cannot find {path!r} ({error}); write it as package.module:function") from None
    if not callable(found):
        raise UserError(f"{key}: {path!r} is not a function")
    return found


def digest(path: str, key: str) -> str:
    """A digest of the files that a named function is written in: its own, those beside it whose names begin with its
    name (`answers.py`, `answers_units.py`), and the module that it is named by. "" where none is to be had.

    Raises UserError as `function` does.
    """
    found: Any = inspect.unwrap(function(path, key))
    files: set[Path] = set()
    parts: tuple[Any, ...] = (found, found.__class__, importlib.import_module(path.partition(":")[0]))
    for part in parts:
        try:
            source = inspect.getsourcefile(part)
        except (TypeError, OSError):  # written in C, or an object that only can be called
            continue
        if source:
            files.update(Path(source).parent.glob(f"{Path(source).stem}*.py"))
    return fingerprint(sorted(files)) if files else ""


def foreign(path: str, key: str) -> str:
    """`digest` of a function that is not of this package; "" for one that is: its text goes with the version."""
    found = digest(path, key)
    return "" if path.partition(".")[0].partition(":")[0] == "open4ov" else found
