"""Functions that a recipe names: a reward, a verifier, an embedder."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from open4ov.errors import UserError


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
