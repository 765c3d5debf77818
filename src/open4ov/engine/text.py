"""Text of a growing response: stop strings, pieces that never split a character, and the bytes of single tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's): printable ones of Latin-1 for
    themselves, and for the others, in order, those from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _byte_alphabet()


class TokenBytes:
    """The bytes that a token adds to a text, which need not be whole characters. Of a byte-level tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._added = tokenizer, tokenizer.get_added_tokens_decoder()

    def of(self, token: int) -> bytes:
        """None at all for special tokens, which are not shown, and for numbers that are no token."""
        if (added := self._added.get(token)) is not None:
            return b"" if added.special else added.content.encode()
        return bytes(_BYTES[one] for one in self._tokenizer.id_to_token(token) or "")


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
