"""What stands before a router's every route: keys, request ids and bounded bodies."""

from __future__ import annotations

import hmac
import logging
import re
import uuid
from collections.abc import Sequence

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from open4ov.engine.serving import access
from open4ov.engine.serving.body import MAX_BODY
from open4ov.engine.serving.faults import error

log = logging.getLogger(__name__)
_NUMBER = re.compile(r"[A-Za-z0-9._-]{1,128}")


class TooLarge(Exception):
    """A body of more than MAX_BODY bytes."""


class Gate:
    """ASGI middleware: lets in who has one of the `keys` (none: everybody; `/health`: always), and numbers requests.

    Pages of elsewhere may only read (`access.py`).

    The number is the client's `x-request-id` where it is a plain word; it stands in the scope's state as `request_id`
    and in the response's header, unless the response has one already.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        number = given if _NUMBER.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = number
        begun = False

        async def numbered(message: Message) -> None:
            nonlocal begun
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                begun = True
                MutableHeaders(scope=message).setdefault("x-request-id", number)
            await send(message)

        try:
            if scope["path"] != "/health" and not self._known(headers):
                closed = error(401, "a key is needed: Authorization: Bearer KEY", "invalid_api_key")
                return await closed(scope, receive, numbered)  # a WebSocket is not opened then
            if access.from_elsewhere(HTTPConnection(scope), bool(self.keys)):
                closed = error(403, "this is for pages of this server only, or with a Bearer key", "foreign_origin")
                return await closed(scope, receive, numbered)
            await self.app(scope, receive, numbered)
        except Exception:
            log.exception("request %s failed", number)
            if begun or scope["type"] != "http":
                raise
            await error(500, "the server made an error", "internal_error")(scope, receive, numbered)

    def _known(self, headers: Headers) -> bool:
        given, _ = access.key_of(headers.get("authorization", ""))
        return not self.keys or sum(hmac.compare_digest(given, known.encode()) for known in self.keys) > 0


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
