"""The keys that are let in, and how every request gets a number: what a server and a router have in common."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from open4ov.engine.serving import access
from open4ov.engine.serving.faults import error

log = logging.getLogger(__name__)


class Keys:
    """`keys`: those that are let in (none: everybody). Raises ValueError for an empty one, which whoever sends no key
    at all would have."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not all(key.strip() for key in keys):
            raise ValueError("a key is empty")
        self._known = [key.encode() for key in keys]

    def __len__(self) -> int:
        return len(self._known)

    def given(self, authorization: str) -> bytes | None:
        """The key in an Authorization header if it is let in (nothing where everybody is); None: not let in."""
        if not self._known:
            return b""
        given, _ = access.key_of(authorization)
        known = sum(hmac.compare_digest(given, one) for one in self._known)  # each takes its time
        return given if given and known else None

    def denial(self, connection: HTTPConnection) -> JSONResponse | None:
        """What is said to those who are not let in; None to all others."""
        if self.given(connection.headers.get("authorization", "")) is None:
            return error(401, "a key is needed: Authorization: Bearer KEY", "invalid_api_key")
        if access.from_elsewhere(connection, bool(self._known)):
            return error(403, "this is for pages of this server only, or with a Bearer key", "foreign_origin")
        return None


async def numbered(
    number: str, scope: Scope, receive: Receive, send: Send, work: Callable[[Scope, Receive, Send], Awaitable[None]]
) -> None:
    """Does the work with a request's number in the answer's header, unless it has one. No fault of ours gets out but
    as a fixed text."""
    begun = False

    async def send_numbered(message: Message) -> None:
        nonlocal begun
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            begun = True
            MutableHeaders(scope=message).setdefault("x-request-id", number)
        await send(message)

    try:
        await work(scope, receive, send_numbered)
    except Exception:
        log.exception("request %s failed", number)
        if begun or scope["type"] != "http":
            raise
        await error(500, "the server made an error", "internal_error")(scope, receive, send_numbered)
