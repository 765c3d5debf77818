"""What a request has to do with earlier ones: by this key those of one session, one picture or one conversation meet.

In this order: the session it names, the content of its first image (its features and blocks are where it was asked
about before), and how its conversation begins (the blocks of a shared beginning).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json


@dataclass(frozen=True)
class Key:
    """`kind`: session, image or prefix."""

    kind: str
    digest: bytes


def key_of(session: str | None, body: bytes) -> Key | None:
    """The key of a chat request, or none. `session`: its `x-session-id`. A body that is no request has no key."""
    if session:
        return _key("session", session.encode())
    try:
        asked = from_json(body)
    except ValueError:  # the node says what is wrong with it
        return None
    messages = asked.get("messages") if isinstance(asked, dict) else None
    messages = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    image = next(_images(messages), None)
    if image is not None:
        return _key("image", _content(image))
    return _key("prefix", _beginning(messages)) if messages else None


def _key(kind: str, content: bytes) -> Key:
    return Key(kind, hashlib.sha256(kind.encode() + b"\0" + content).digest())


def _images(messages: list[Any]) -> Iterator[str]:
    for message in messages:
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else ():
            holder = part.get("image_url") if isinstance(part, dict) else None
            if isinstance(holder, dict) and isinstance(url := holder.get("url"), str):
                yield url


def _content(url: str) -> bytes:
    """The bytes of a data URL, so that another way to write them makes no difference; else the URL."""
    head, _, data = url.partition(",")
    if head.startswith("data:") and head.endswith(";base64"):
        try:
            return base64.b64decode(data)
        except (binascii.Error, ValueError):
            pass
    return url.encode(errors="surrogatepass")


def _beginning(messages: list[Any]) -> bytes:
    """The messages up to the first of the user's: what all turns of a conversation have in common."""
    end = next((place for place, message in enumerate(messages) if message.get("role") == "user"), len(messages) - 1)
    return json.dumps(messages[: end + 1], sort_keys=True).encode()
