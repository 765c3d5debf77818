"""Who is let in: keys as Bearer or, for browsers, as the password of HTTP Basic; and from which pages.

A browser sends Basic credentials by itself, whichever page asks it to. So what changes something (every method but GET
and HEAD, and WebSockets) must then come from a page of this very server. The same holds where no key is needed: pages
of anywhere can reach a server on the machine they are shown on.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Denial:
    """Why a request is turned away: an HTTP status, fixed words, and a code."""

    status: int
    message: str
    code: str


def owner(connection: HTTPConnection, keys: Sequence[str]) -> str | None:
    """Who asks: a digest of their key, "" where no key is needed, None for somebody without one."""
    if not keys:
        return ""
    key, _ = _given(connection)
    if sum(hmac.compare_digest(key, known.encode()) for known in keys) == 0:
        return None
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def denial(connection: HTTPConnection, keys: Sequence[str]) -> Denial | None:
    """Why this request is not let in; None when it is."""
    if owner(connection, keys) is None:
        return Denial(401, "a key is needed: Authorization: Bearer KEY", "invalid_api_key")
    changes = connection.scope["type"] == "websocket" or connection.scope["method"] not in ("GET", "HEAD")
    if changes and not _own_page(connection, bool(keys)):
        return Denial(403, "this is for pages of this server only, or for a Bearer key", "foreign_origin")
    return None


def _own_page(connection: HTTPConnection, keyed: bool) -> bool:
    """Whether the request is no browser's, or one of a page of this server."""
    _, basic = _given(connection)
    if keyed and not basic:
        return True
    origin = connection.headers.get("origin")
    if origin is None:
        return not basic
    try:
        page = urlsplit(origin)
        local = keyed or page.hostname in LOCAL  # else a name of elsewhere may have been made to mean this machine
    except ValueError:
        return False
    return local and page.netloc.lower() == connection.headers.get("host", "").lower() != ""


def _given(connection: HTTPConnection) -> tuple[bytes, bool]:
    """The key that came, and whether by Basic."""
    kind, _, rest = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return (rest.strip().encode() if kind.lower() == "bearer" else b""), False
    try:
        _, _, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        password = b""
    return password, True
