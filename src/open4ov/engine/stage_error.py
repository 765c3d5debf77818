"""What goes wrong at another stage; here, where the engine's service and its stages may both look."""

from __future__ import annotations


class StageError(Exception):
    """A stage could not do what it was asked. `reason`, one word: `unreachable`, `weights` (its are others), `refused`
    (what it was sent, or what it has sent) or `failed`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
