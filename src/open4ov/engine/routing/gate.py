"""What stands before a router's every route: keys, request ids and bounded bodies."""

from __future__ import annotations

import re
import uuid

from fastapi import Request
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from open4ov.engine.serving.body import MAX_BODY
from open4ov.engine.serving.keys import Keys, numbered

_NUMBER = re.compile(r"[A-Za-z0-9._-]{1,128}")


class TooLarge(Exception):
    """A body of more than MAX_BODY bytes."""


class Gate:
    """ASGI middleware: lets in who has one of the `keys` (to `/health` everybody), and numbers requests.

    Pages of elsewhere may only read (`access.py`).

    The number is the client's `x-request-id` where it is a plain word; it stands in the scope's state as `request_id`
    and in the response's header, unless the response has one already.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        number = given if _NUMBER.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = number
        await numbered(number, scope, receive, send, self._admit)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        denied = None if scope["path"] == "/health" else self.keys.denial(HTTPConnection(scope))
        await (denied or self.app)(scope, receive, send)  # a WebSocket is not opened when it is denied


async def body(request: Request) -> bytes:
    """The request's body, read no further than the limit. Raises TooLarge."""
    stated = request.headers.get("content-length", "0")
    parts, size = list[bytes](), 0
    if not stated.isdigit() or int(stated) > MAX_BODY:
        raise TooLarge
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)
