"""`<image>` in a text: the place of the next image, as LLaVA, ShareGPT, ms-swift and LLaMA-Factory write it.

The form has no way to say that a user typed `<image>`. Reading: if there are more tokens than images, those that stand
alone on a line at the start or end of a text are places, when they are as many as the images; else the row is refused.
Writing: a typed `<image>` becomes `< image >`, which other tools leave alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from open4ov.formats.row import RowError
from open4ov.sample import Part

TOKEN = "<image>"
TYPED = "< image >"
_ALONE = re.compile(r"\A(?:(?:<image>)+(?:\n|\Z))+|(?:\n<image>)+\Z")


def split(texts: Sequence[str], images: int) -> list[list[Part]]:
    """The parts of each text of a conversation with so many images; places are numbered through all texts.

    One line break beside a token belongs to it. Raises RowError when tokens and images do not match.
    """
    found = sum(text.count(TOKEN) for text in texts)
    if found == images:
        marked = [[TOKEN] * text.count(TOKEN) for text in texts]
        pieces = [text.split(TOKEN) for text in texts]
    else:
        pieces = [_alone(text) for text in texts]
        marked = [[TOKEN] * (len(piece) - 1) for piece in pieces]
        alone = sum(map(len, marked))
        if alone != images:
            raise RowError(
                f"{found} `<image>` in its texts ({alone} on a line of their own at an end) for {images} images; "
                "give each image one, or the row one image for each"
            )
    next_image, parts = 0, list[list[Part]]()
    for piece, marks in zip(pieces, marked, strict=True):
        own: list[Part] = []
        for number, text in enumerate(piece):
            after, before = number > 0, number < len(marks)
            if after and text.startswith("\n"):
                text = text[1:]
            if before and text.endswith("\n"):
                text = text[:-1]
            if text or not marks:
                own.append(Part(type="text", text=text))
            if before:
                own.append(Part(type="image", index=next_image))
                next_image += 1
        parts.append(own)
    return parts


def join(parts: Sequence[Part]) -> str:
    """A text with a token, on a line of its own, for each image; a video is one for each of its frames."""
    texts: list[str] = []
    for part in parts:
        if part.type == "text":
            texts.append((part.text or "").replace(TOKEN, TYPED))
        else:
            texts += [TOKEN] * len(part.shows)
    return "\n".join(texts)


def _alone(text: str) -> list[str]:
    """The text cut at the tokens that stand at its ends."""
    pieces, at = list[str](), 0
    for match in _ALONE.finditer(text):
        for start in range(match.group().count(TOKEN)):
            place = text.index(TOKEN, at if start else match.start())
            pieces.append(text[at:place])
            at = place + len(TOKEN)
    return [*pieces, text[at:]]
