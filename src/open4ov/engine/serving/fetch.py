"""Pictures fetched by https for a client, without reaching what the client itself could not reach.

A name is resolved once, all its addresses must be public, and the connection goes to the address that was checked;
every redirect is checked like the first URL. Bytes and time are limited in all. Whatever goes wrong has the same words,
since the difference between them would map the network that the server stands in.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import h11

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host name. Raises OSError when it has none."""

MAX_BYTES = 16 * 2**20
MAX_REDIRECTS = 3
SECONDS = 15.0
MAX_URL = 2048
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\.?")
_URL = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_TUNNELS = [
    ipaddress.IPv6Network(net)
    for net in ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/23", "2002::/16", "fec0::/10")
]
"""IPv6 that stands for other addresses: mapped and compatible IPv4, NAT64, Teredo and its like, 6to4; and site-local"""
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")


class BadUrl(Exception):
    """A URL that is not fetched whatever it leads to: what is wrong can be seen in it."""


class NotFetched(Exception):
    """There is no picture to be had from there. Nothing tells why."""


def public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and no way round to another."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None or any(parsed in net for net in _TUNNELS):
            return False
    elif parsed in _RELAYS:
        return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)


async def resolved(host: str) -> list[str]:
    """The addresses of a name by the system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass
class Fetcher:
    """`hosts`: the only ones asked, where given. `seconds` and `max_bytes` are for a picture, redirects included.
    `resolve`, `trust` (certificates) and `allowed` (addresses) replace the system's and the public internet's."""

    hosts: Sequence[str] | None = None
    max_bytes: int = MAX_BYTES
    seconds: float = SECONDS
    resolve: Resolve = resolved
    trust: ssl.SSLContext | None = None
    allowed: Callable[[str], bool] = public
    port: int = 443

    def __post_init__(self) -> None:
        self._trust = self.trust or ssl.create_default_context()
        self._hosts = None if self.hosts is None else {host.lower().rstrip(".") for host in self.hosts}

    def check(self, url: str) -> SplitResult:
        """The parts of a URL that may be fetched. Raises BadUrl."""
        if len(url) > MAX_URL or not _URL.fullmatch(url):
            raise BadUrl(f"a URL has at most {MAX_URL} characters, and only those of RFC 3986")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise BadUrl("not a URL") from None
        if parts.scheme != "https":
            raise BadUrl("only https URLs are fetched")
        if "@" in parts.netloc:
            raise BadUrl("a URL with a user name or password is not fetched")
        if (443 if port is None else port) != self.port or parts.netloc.endswith(":"):
            raise BadUrl(f"only port {self.port} is fetched from")
        host = parts.hostname or ""
        if not _HOST.fullmatch(host) or host.rstrip(".").rpartition(".")[2].isdecimal() or "[" in parts.netloc:
            raise BadUrl("a URL must have a host's name, not an address")
        if self._hosts is not None and host.rstrip(".") not in self._hosts:
            raise BadUrl("nothing is fetched from that host")
        return parts

    async def fetch(self, url: str) -> bytes:
        """What is there. Raises BadUrl for a URL that is never fetched, and NotFetched."""
        parts = self.check(url)
        try:
            async with asyncio.timeout(self.seconds):
                for _ in range(MAX_REDIRECTS + 1):
                    found = await self._get(parts)
                    if isinstance(found, bytes):
                        return found
                    parts = self.check(urljoin(parts.geturl(), found))
        except (OSError, TimeoutError, BadUrl, h11.ProtocolError, UnicodeError, ValueError):
            pass
        raise NotFetched

    async def _get(self, parts: SplitResult) -> bytes | str:
        """The content at a URL, or where it redirects to."""
        host = parts.hostname or ""
        addresses = await self.resolve(host)
        if not addresses or not all(self.allowed(address) for address in addresses):
            raise NotFetched
        reader, writer = await asyncio.open_connection(
            addresses[0], self.port, ssl=self._trust, server_hostname=host.rstrip(".")
        )
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            return await self._exchange(reader, writer, host.rstrip("."), target)
        finally:
            writer.transport.abort()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, target: str
    ) -> bytes | str:
        wire = h11.Connection(h11.CLIENT)
        name = host if self.port == 443 else f"{host}:{self.port}"
        headers = [("host", name), ("accept", "image/*"), ("accept-encoding", "identity"), ("connection", "close")]
        writer.write(wire.send(h11.Request(method="GET", target=target, headers=headers)))
        writer.write(wire.send(h11.EndOfMessage()))
        await writer.drain()
        parts, size = list[bytes](), 0
        async for event in _events(wire, reader):
            if isinstance(event, h11.Response):
                location = [value for key, value in event.headers if key == b"location"]
                if event.status_code in (301, 302, 303, 307, 308) and len(location) == 1:
                    return location[0].decode("ascii")
                if event.status_code != 200 or _stated(event) > self.max_bytes:
                    raise NotFetched
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > self.max_bytes:
                    raise NotFetched
                parts.append(bytes(event.data))
        return b"".join(parts)


async def _events(wire: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[h11.Event]:
    """A response piece by piece, until it has ended."""
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Event):
            if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return
            yield event
        else:
            raise NotFetched


def _stated(response: h11.Response) -> int:
    return next((int(value) for key, value in response.headers if key == b"content-length"), 0)
