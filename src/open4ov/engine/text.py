"""Text of a growing response: stop strings, and pieces that never split a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first occurrence of any stop string."""
    ends = [at for each in stop if (at := text.find(each)) >= 0]
    return text[: min(ends)] if ends else text


class TextStream:
    """Turns growing token lists into text pieces; joined, the pieces are the whole text up to a stop string.

    Bytes of an unfinished character (they decode to U+FFFD at the end) and text that may begin a stop string wait.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self.decode = decode
        self.stop = stop
        self.given = 0

    def push(self, token_ids: list[int], last: bool) -> str:
        """What can be shown now that `token_ids` (all so far) are known; `last` says that no more will come."""
        text = self.decode(token_ids)
        cut = cut_at_stop(text, self.stop)
        if not last and cut == text:
            cut = cut.rstrip(REPLACEMENT)
            cut = cut[: len(cut) - self._may_begin_stop(cut)]
        piece = cut[self.given :]
        self.given += len(piece)
        return piece

    def shown(self, token_ids: list[int]) -> int:
        """How many of the tokens (all so far) have had all their text given."""
        count = len(token_ids)
        while count and len(self.decode(token_ids[:count])) > self.given:
            count -= 1
        return count

    def _may_begin_stop(self, text: str) -> int:
        """Characters at the end of `text` that are the beginning of a stop string."""
        longest = max(map(len, self.stop), default=0) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(each.startswith(text[-size:]) for each in self.stop):
                return size
        return 0
