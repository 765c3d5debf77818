"""What stands before a router's every route: keys, request ids, and how much all bodies may hold."""

from __future__ import annotations

import hashlib
import re
import uuid

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from open4ov.engine.serving.gate import Visit
from open4ov.engine.serving.keys import Keys, numbered
from open4ov.engine.serving.room import Room

_NUMBER = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Gate:
    """ASGI middleware: lets in who has one of the `keys` (to `/health` everybody), and numbers requests.

    Pages of elsewhere may only read (`access.py`).

    The number is the client's `x-request-id` where it is a plain word; it stands in the scope's state as `request_id`
    and in the response's header, unless the response has one already. What a request holds of the `room` (`visit` in
    the scope's state) is given back when it is over.
    """

    def __init__(self, app: ASGIApp, keys: Keys, room: Room) -> None:
        self.app, self.keys, self.room = app, keys, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        number = given if _NUMBER.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = number
        await numbered(number, scope, receive, send, self._admit)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        denied = None if scope["path"] == "/health" else self.keys.denial(HTTPConnection(scope))
        if denied is not None:
            return await denied(scope, receive, send)  # a WebSocket is not opened then
        key = self.keys.given(Headers(scope=scope).get("authorization", "")) if len(self.keys) > 1 else b""
        visit = Visit(self.room, hashlib.sha256(key).hexdigest() if key else "", "")
        scope["state"]["visit"] = visit
        try:
            await self.app(scope, receive, send)
        finally:
            visit.end()
