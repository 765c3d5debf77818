"""The text embedder that a recipe names in `data.embedder`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from open4ov.data.nearest import Floats
from open4ov.errors import UserError
from open4ov.functions import function


def tried(path: str) -> Callable[[list[str]], Floats]:
    """The embedder, tried on one text before anything is asked or paid.

    Raises UserError for one that cannot be found, fails, or gives anything but a row of numbers for a text.
    """
    embed = function(path, "data.embedder")
    try:
        rows = np.asarray(embed(["a red warning light"]), np.float32)
    except UserError:
        raise
    except Exception as error:  # whatever a function of the user's raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"data.embedder: {path!r} fails on a list of one text ({reason})") from error
    if rows.ndim != 2 or len(rows) != 1 or not rows.shape[1] or not np.isfinite(rows).all():
        raise UserError(
            f"data.embedder: {path!r} gives an array of shape {rows.shape} for a list of one text; it must give [1, D] "
            "finite numbers"
        )
    return embed
