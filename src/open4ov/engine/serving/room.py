"""Room that all keys share, in bytes, of which none takes so much that nothing is left for others."""

from __future__ import annotations

from collections import Counter


class Full(Exception):
    """What all hold together would be too much."""


class TooMuch(Exception):
    """One key would hold more than it leaves free."""


class Room:
    """`limit` bytes. A key may hold as much as it leaves free: one alone half of all, the next half of what is left
    then, so that there is something for every one. Without a key ("") only the limit counts."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._of: Counter[str] = Counter()

    def take(self, key: str, size: int) -> None:
        """Raises Full and TooMuch, and then nothing is taken."""
        left = self.limit - self.held - size
        if left < 0:
            raise Full
        if key and self._of[key] + size > left:
            raise TooMuch
        self.held += size
        self._of[key] += size

    def give_back(self, key: str, size: int) -> None:
        self.held -= size
        self._of[key] -= size
        if not self._of[key]:
            del self._of[key]
