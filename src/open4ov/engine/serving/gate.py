"""Who is let in, how much each may have under way, and how a server ends: no new requests, those under way finish."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from open4ov.engine.serving.faults import error
from open4ov.engine.serving.keys import Keys, numbered
from open4ov.engine.serving.room import Room

MAX_HELD = 2**30
"""Bytes of bodies and pixels of all requests under way"""
OPEN_TO_ALL = "/health"
PAGE = "/"


class Ending(Exception):
    """The server takes no new requests."""


class TooMany(Exception):
    """A key has as many requests under way as it may have."""


class Visit:
    """A request under way: whose it is, and what it holds."""

    def __init__(self, room: Room, key: str, salt: str) -> None:
        self.salt, self._room, self._key, self.held = salt, room, key, 0

    def hold(self, size: int) -> None:
        """So many more bytes are kept until the request is over. Raises Full and TooMuch."""
        self._room.take(self._key, size)
        self.held += size

    def end(self) -> None:
        self._room.give_back(self._key, self.held)


class Gate:
    """`keys`: as of `Keys`; `max_per_key`: requests of a key under way (0: no limit). Keys
    do not find what was computed for others, unless `share_cache`."""

    def __init__(
        self, keys: Sequence[str] = (), max_per_key: int = 0, share_cache: bool = False, max_held: int = MAX_HELD
    ) -> None:
        self.max_per_key, self.share_cache, self.room = max_per_key, share_cache, Room(max_held)
        self.ending = False
        self._keys = Keys(keys)
        self._secret = secrets.token_bytes(32)
        self._under_way: Counter[str] = Counter()

    def tenant(self, authorization: str) -> str | None:
        """What stands for the key in an Authorization header, "" where no keys are set; None: not let in."""
        given = self._keys.given(authorization)
        if not given:
            return None if given is None else ""
        return hashlib.blake2b(given, key=self._secret, digest_size=16).hexdigest()

    def denial(self, connection: HTTPConnection) -> JSONResponse | None:
        """What is said to those who are not let in; None to all others."""
        denied = self._keys.denial(connection)
        if denied is not None and denied.status_code == 401 and connection.scope["path"] == PAGE:
            # only there a browser shall ask for it
            denied.headers["www-authenticate"] = 'Basic realm="open4ov: any name, and the key as password"'
        return denied

    @contextmanager
    def visit(self, tenant: str) -> Iterator[Visit]:
        """A request from its beginning to its end. Raises Ending and TooMany."""
        if self.ending:
            raise Ending
        if self.max_per_key and self._under_way[tenant] >= self.max_per_key:
            raise TooMany
        alone = len(self._keys) < 2
        visit = Visit(self.room, "" if alone else tenant, "" if self.share_cache else tenant)
        self._under_way[tenant] += 1
        try:
            yield visit
        finally:
            visit.end()
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant]

    @property
    def under_way(self) -> int:
        """Requests that have begun and not ended."""
        return self._under_way.total()


class Guard:
    """ASGI middleware: lets in who has a key, numbers requests, and lets no fault of ours out. What a route is asked by
    POST is a visit (`scope["state"]["visit"]`)."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await numbered(f"req-{uuid.uuid4().hex}", scope, receive, send, self._admit)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        answer: Any = None if path == OPEN_TO_ALL else self.gate.denial(HTTPConnection(scope))
        if answer is not None:
            pass
        elif scope["method"] != "POST":
            answer = self.app
        else:
            try:
                with self.gate.visit(self.gate.tenant(_authorization(scope)) or "") as visit:
                    scope.setdefault("state", {})["visit"] = visit
                    await self.app(scope, receive, send)
                return
            except Ending:
                answer = error(503, "the server is ending; ask another", "server_ending", retry=5)
            except TooMany:
                answer = error(429, "too many requests of this key are under way", "rate_limited", retry=1)
        await answer(scope, receive, send)


def _authorization(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), "")
