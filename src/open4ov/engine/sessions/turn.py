"""A user's turn under construction: words as they are spoken, pictures among them, and what can no longer change.

Text is tokenized anew with every word, since tokens do not end where pieces of text do: "play" and "ground" are not the
tokens of "playground". So only what stands before the last word counts as settled, and of that only the tokens that are
the same with and without it. This is a guess about what comes, never about the answer: an answer is computed from the
tokens of the whole conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from open4ov.model import Processor
from open4ov.sample import Message, Part

TAIL = 16
"""A last word is kept back up to this many characters; scripts without spaces have no shorter ends."""


@dataclass(frozen=True)
class Turn:
    """`text` so far, and for each picture how many characters come before it (ascending). `first`: the number of the
    first picture among the conversation's."""

    text: str = ""
    pictures: tuple[int, ...] = ()
    first: int = 0

    def with_picture(self) -> Turn:
        """One more picture, after all that is there."""
        return replace(self, pictures=(*self.pictures, len(self.text)))

    def appended(self, text: str) -> Turn:
        return replace(self, text=self.text + text)

    def revised(self, text: str) -> Turn:
        """The same turn with another transcript. A picture stays after the words that are before it as before, or else
        before those that are after it."""
        before = common(self.text, text)
        after = common(self.text[before:][::-1], text[before:][::-1])
        places = (at if at <= before else len(text) - min(len(self.text) - at, after) for at in self.pictures)
        return replace(self, text=text, pictures=tuple(places))

    def without_last_word(self) -> Turn | None:
        """The turn before its last word; None when nothing comes after the last picture, or nothing at all."""
        start = self.pictures[-1] if self.pictures else 0
        end = len(self.text)
        lowest = max(start, end - TAIL)
        if end == start:
            return None
        while end > lowest and not self.text[end - 1].isspace():
            end -= 1
        while end > lowest and self.text[end - 1].isspace():
            end -= 1
        return replace(self, text=self.text[:end])

    def message(self) -> Message:
        """As a one-shot request would have it."""
        parts: list[Part] = []
        done = 0
        for number, at in enumerate(self.pictures, start=self.first):
            if at > done:
                parts.append(Part(type="text", text=self.text[done:at]))
            parts.append(Part(type="image", index=number))
            done = at
        if self.text[done:]:
            parts.append(Part(type="text", text=self.text[done:]))
        return Message(role="user", content=parts)


def settled(
    processor: Processor, before: Sequence[Message], turn: Turn, images: Sequence[Image.Image]
) -> tuple[list[int], int]:
    """The tokens of the conversation if `turn` ended here, and how many of them are settled: whole messages, pictures,
    and text that the words to come leave alone."""
    whole = _tokens(processor, before, turn, images)
    other = _tokens(processor, before, turn.without_last_word() or turn.appended(" x"), images)
    return whole, common(whole, other)


def _tokens(processor: Processor, before: Sequence[Message], turn: Turn, images: Sequence[Image.Image]) -> list[int]:
    document = processor.encode([*before, turn.message()], images, generate=True, pixels=False)
    ids: list[int] = document.input_ids.tolist()
    return ids


def common(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items both begin with."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
