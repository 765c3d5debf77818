"""What stands before every route: keys, request ids, bounded bodies, and errors as OpenAI has them."""

from __future__ import annotations

import hmac
import logging
import re
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)
MAX_BODY = 32 * 2**20
"""Bytes of a request's body, and of a WebSocket's message"""
OUR_FAULTS = ("internal_error", "server_overloaded", "node_lost", "bad_gateway", "no_node", "session_unavailable")
_NUMBER = re.compile(r"[A-Za-z0-9._-]{1,128}")


class TooLarge(Exception):
    """A body of more than MAX_BODY bytes."""


class Gate:
    """ASGI middleware: lets in who has one of the `keys` (none: everybody; `/health`: always), and numbers requests.

    Without keys a browser is not let in, but for reading: any page can have it ask a server on its own machine.

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
            if scope["path"] != "/health" and self.keys and not let_in(headers, self.keys):
                closed = error(401, "a key is needed: Authorization: Bearer KEY", "invalid_api_key")
                return await closed(scope, receive, numbered)  # a WebSocket is not opened then
            if not self.keys and "origin" in headers and scope.get("method") not in ("GET", "HEAD"):
                closed = error(403, "pages of other servers may not ask without a key", "foreign_origin")
                return await closed(scope, receive, numbered)
            await self.app(scope, receive, numbered)
        except Exception:
            log.exception("request %s failed", number)
            if begun or scope["type"] != "http":
                raise
            await error(500, "the server made an error", "internal_error")(scope, receive, numbered)


def let_in(headers: Headers, keys: Sequence[str]) -> bool:
    """Whether one of the keys was given."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    given = key.strip().encode()
    return kind.lower() == "bearer" and sum(hmac.compare_digest(given, known.encode()) for known in keys) > 0


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


def fault(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's API has it."""
    kind = "server_error" if code in OUR_FAULTS else "invalid_request_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def error(status: int, message: str, code: str, retry_after: str | None = None) -> JSONResponse:
    """A response that is an error. `retry_after`: seconds."""
    headers = None if retry_after is None else {"retry-after": retry_after}
    return JSONResponse({"error": fault(message, code)}, status, headers)
