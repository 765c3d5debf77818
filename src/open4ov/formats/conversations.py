"""LLaVA and ShareGPT: `conversations` of `from` and `value`, with `<image>` in the text where an image is.

LLaVA names its image, or a list of them, in `image`; ShareGPT, as ms-swift and LLaMA-Factory write it, a list in
`images`, and the system message in `system`. Reading takes either in both. An image without a token stands before the
first thing the user says, as trainers put it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from open4ov.formats import tokens
from open4ov.formats.row import Parsed, Reference, RowError
from open4ov.sample import Message, Part, Role, Sample

ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
}
_NAMES: dict[Role, str] = {"user": "human", "assistant": "gpt", "system": "system"}
_TURN = {"from", "value"}


class Conversations:
    """The codec; `images` is the field that it writes the images in."""

    def __init__(self, name: str, images: str) -> None:
        self.name = name
        self.images = images

    def decode(self, row: Mapping[str, Any]) -> Parsed:
        turns = row.get("conversations")
        if not isinstance(turns, list):
            raise RowError("it has no list `conversations`")
        roles: list[Role] = []
        texts: list[str] = []
        others: list[dict[str, Any]] = []
        if isinstance(row.get("system"), str) and row["system"]:
            roles, texts, others = ["system"], [row["system"]], [{}]
        for number, turn in enumerate(cast("list[Any]", turns)):
            role, text = _turn(turn, number)
            roles.append(role)
            texts.append(text)
            others.append({key: value for key, value in turn.items() if key not in _TURN})
        images, used = references(row)
        count = sum(text.count(tokens.TOKEN) for text in texts)
        if count < len(images) and "user" in roles:
            first = roles.index("user")
            texts[first] = "\n".join([tokens.TOKEN] * (len(images) - count) + [texts[first]])
        parts = tokens.split(texts, len(images) if "user" in roles else min(count, len(images)))
        messages = [
            Message.model_validate({**other, "role": role, "content": content})
            for role, content, other in zip(roles, parts, others, strict=True)
        ]
        used |= {"conversations"} | ({"system"} if isinstance(row.get("system"), str) else set[str]())
        texts_only = {key: row[key] for key in ("conversations", "system") if key in used and key in row}
        again = self.texts(messages)
        return Parsed(messages, images, used, as_written=texts_only if texts_only != again else None)

    def encode(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        shown = [place for message in sample.messages for part in message.content for place in part.shows]
        if any(place >= len(images) for place in shown):
            raise RowError(f"a message shows image {max(shown) + 1} of {len(images)}")
        named = [images[place] for place in shown]
        named += [name for place, name in enumerate(images) if place not in shown]
        row: dict[str, Any] = {"id": sample.id}
        if named:
            row[self.images] = named[0] if self.images == "image" and len(named) == 1 else named
        return {**row, **self.texts(sample.messages)}

    def texts(self, messages: Sequence[Message]) -> dict[str, Any]:
        """The fields of a conversation."""
        row: dict[str, Any] = {}
        rest = list(messages)
        if self.images == "images" and rest and _plain_system(rest[0]):
            row["system"] = rest.pop(0).text
        row["conversations"] = [
            {"from": _NAMES[message.role], "value": tokens.join(message.content), **(message.model_extra or {})}
            for message in rest
        ]
        return row


def references(row: Mapping[str, Any]) -> tuple[list[Reference], set[str]]:
    """The images in a row's `image` or `images` (one, or a list), and which of these fields it has."""
    images: list[Reference] = []
    used: set[str] = set()
    for key in ("video", "videos", "audio", "audios"):
        if row.get(key):
            raise RowError(f"its {key} cannot be read; give the frames as images")
    for key in ("image", "images"):
        if key not in row:
            continue
        used.add(key)
        given = row[key]
        if given is None or given == "":
            continue
        images += cast("list[Any]", given) if isinstance(given, list) else [given]
    return images, used


def _turn(turn: Any, number: int) -> tuple[Role, str]:
    if not isinstance(turn, dict) or not set(cast("dict[str, Any]", turn)) >= _TURN:
        raise RowError(f"conversations[{number}] has no `from` and `value`")
    given = cast("dict[str, Any]", turn)
    said, text = str(given["from"]), given["value"]
    if said not in ROLES:
        raise RowError(f"conversations[{number}]: from {said!r}; known: {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise RowError(f"conversations[{number}]: its value is no text")
    return ROLES[said], text


def _plain_system(message: Message) -> bool:
    texts = [part for part in message.content if part.type == "text"]
    return (
        message.role == "system"
        and len(texts) == len(message.content) == 1
        and bool(texts[0].text)
        and not message.model_extra
    )


def text_message(role: Role, text: str) -> Message:
    """A message of one text."""
    return Message(role=role, content=[Part(type="text", text=text)])
