"""Messages as the OpenAI API takes them, one conversation a line: `{"messages": [{"role", "content"}, ...]}`.

`content` is a text, or a list of `{"type": "text", "text"}` and `{"type": "image_url", "image_url": {"url"}}`. Images
are paths, relative to the file, or data URLs. Also read: parts `{"type": "image", "image": path}`, `{"type": "image"}`
whose image is the next of the row's `images`, and texts with `<image>` beside a list `images` (ms-swift). A video is
written as its frames with their times beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from open4ov.formats import tokens
from open4ov.formats.conversations import references
from open4ov.formats.row import Parsed, Reference, RowError
from open4ov.sample import Message, Part, Sample

ROLES = ("system", "user", "assistant")


class Messages:
    """The codec."""

    name = "messages"

    def decode(self, row: Mapping[str, Any]) -> Parsed:
        given = row.get("messages")
        if not isinstance(given, list):
            raise RowError("it has no list `messages`")
        beside, used = references(row)
        turns = cast("list[Any]", given)
        for number, turn in enumerate(turns):
            _check(turn, number)
        texts = [turn["content"] for turn in turns]
        if beside and all(isinstance(text, str) for text in texts):
            return Parsed(_with_tokens(turns, texts, len(beside)), beside, {"messages", *used})
        reading = _Reading(beside)
        messages = [reading.message(turn, f"messages[{number}]") for number, turn in enumerate(turns)]
        return Parsed(messages, [*reading.images, *reading.beside], {"messages", *used})

    def encode(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        messages = [_written(message, images) for message in sample.messages]
        row: dict[str, Any] = {"id": sample.id, "messages": messages}
        shown = {place for message in sample.messages for part in message.content for place in part.shows}
        if hidden := [name for place, name in enumerate(images) if place not in shown]:
            row["images"] = hidden
        return row


def _with_tokens(turns: Sequence[Any], texts: Sequence[str], images: int) -> list[Message]:
    texts = list(texts)
    missing = images - sum(text.count(tokens.TOKEN) for text in texts)
    if missing > 0:
        first = next((place for place, turn in enumerate(turns) if turn["role"] == "user"), None)
        if first is None:
            images -= missing  # shown by nobody
        else:
            texts[first] = "\n".join([tokens.TOKEN] * missing + [texts[first]])
    parts = tokens.split(texts, images)
    return [Message.model_validate({**turn, "content": content}) for turn, content in zip(turns, parts, strict=True)]


class _Reading:
    """Collects the images of one row in the order in which its parts show them."""

    def __init__(self, beside: Sequence[Reference]) -> None:
        self.images: list[Reference] = []
        self.beside = list(beside)

    def message(self, turn: dict[str, Any], where: str) -> Message:
        content = turn["content"]
        if content is None:
            content = []
        parts = [content] if isinstance(content, str) else content
        if not isinstance(parts, list):
            raise RowError(f"{where}: its content is neither a text nor a list")
        read = [self.part(part, f"{where}.content[{n}]") for n, part in enumerate(cast("list[Any]", parts))]
        return Message.model_validate({**turn, "content": read})

    def part(self, part: Any, where: str) -> Part:
        if isinstance(part, str):
            return Part(type="text", text=part)
        if not isinstance(part, dict):
            raise RowError(f"{where} is no object")
        part = dict(cast("dict[str, Any]", part))
        kind = str(part.get("type"))
        if kind == "text" and isinstance(part.get("text"), str):
            return Part.model_validate(part)
        if kind == "video" and isinstance(part.get("frames"), list) and isinstance(part.get("times"), list):
            frames = cast("list[Any]", part.pop("frames"))
            if len(frames) != len(part["times"]):
                raise RowError(f"{where}: {len(frames)} frames and {len(part['times'])} times")
            self.images += frames
            return Part.model_validate({**part, "index": len(self.images) - len(frames)})
        if kind not in ("image_url", "image"):
            raise RowError(f"{where}: a part of type {kind!r} has no place here; known: text, image_url, image")
        part.pop("type")
        given: Any = part.pop(kind, None)
        if kind == "image_url" and isinstance(given, dict):
            inner = dict(cast("dict[str, Any]", given))
            given = inner.pop("url", None)
            part = {**inner, **part}
        elif given is None:
            given = part.pop("path", None) or part.pop("url", None)
        if given is None and kind == "image" and self.beside:
            given = self.beside.pop(0)
        if given is None:
            raise RowError(f"{where}: names no image")
        self.images.append(given)
        return Part.model_validate({**part, "type": "image", "index": len(self.images) - 1})


def _check(turn: Any, number: int) -> None:
    if not isinstance(turn, dict) or not {"role", "content"} <= set(cast("dict[str, Any]", turn)):
        raise RowError(f"messages[{number}] has no `role` and `content`")
    if turn["role"] not in ROLES:
        raise RowError(f"messages[{number}]: the role {turn['role']!r} has no place here; known: {', '.join(ROLES)}")


def _written(message: Message, images: Sequence[str]) -> dict[str, Any]:
    content: Any = [_part(part, images) for part in message.content]
    if len(message.content) == 1 and set(content[0]) == {"type", "text"}:
        content = content[0]["text"]
    return {**(message.model_extra or {}), "role": message.role, "content": content}


def _part(part: Part, images: Sequence[str]) -> dict[str, Any]:
    extra = part.model_extra or {}
    if part.type == "text":
        return {**extra, "type": "text", "text": part.text or ""}
    if any(place >= len(images) for place in part.shows):
        raise RowError(f"a message shows image {part.shows[-1] + 1} of {len(images)}")
    if part.type == "video":
        frames = [images[place] for place in part.shows]
        return {**extra, "type": "video", "frames": frames, "times": part.times or []}
    if part.index is None:
        raise RowError("an image part without an index")
    return {**extra, "type": "image_url", "image_url": {"url": images[part.index]}}
