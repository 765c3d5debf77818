"""Keys as they come in a header, and from which pages a browser may use them.

A key comes as Bearer or, for browsers, as the password of HTTP Basic. A browser sends that by itself, whichever page
asks it to. So what changes something (every method but GET and HEAD, and WebSockets) must then come from a page of this
very server. The same holds where no key is needed: pages of anywhere can reach a server on the machine they are shown
on.
"""

from __future__ import annotations

import base64
import binascii
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

LOCAL = ("127.0.0.1", "localhost", "::1")


def key_of(authorization: str) -> tuple[bytes, bool]:
    """The key in an Authorization header (nothing: no key), and whether a browser may have sent it by itself."""
    kind, _, rest = authorization.partition(" ")
    given = rest.strip().encode("utf-8", "surrogateescape")
    if kind.lower() != "basic":
        return (given if kind.lower() == "bearer" else b""), False
    try:
        _, _, password = base64.b64decode(given, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        password = b""
    return password, True


def from_elsewhere(connection: HTTPConnection, keyed: bool) -> bool:
    """Whether a page of another server may be behind a request that changes something. `keyed`: a key was needed."""
    if connection.scope["type"] == "http" and connection.scope["method"] in ("GET", "HEAD"):
        return False
    _, by_itself = key_of(connection.headers.get("authorization", ""))
    if keyed and not by_itself:
        return False
    origin = connection.headers.get("origin")
    if origin is None:  # browsers say it
        return by_itself
    try:
        page = urlsplit(origin)
        local = keyed or page.hostname in LOCAL  # else a name of elsewhere may have been made to mean this machine
    except ValueError:
        return True
    return not local or page.netloc == "" or page.netloc.lower() != connection.headers.get("host", "").lower()
