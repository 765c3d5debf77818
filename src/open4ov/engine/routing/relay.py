"""A request passed on to nodes, one after another until one of them answers.

An answer that is no stream is read whole before any of it goes on, and a stream up to its first event, so until then
another node can be asked. After that nothing is repeated: a stream that breaks ends with an error event.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx2
from pydantic_core import from_json

from open4ov.engine.routing.nodes import Node

MAX_ANSWER = 64 * 2**20
"""Bytes of an answer, or of one event of a stream"""
LOST = 2
"""Nodes that may break at one request; a request that breaks nodes shall not go through all of them"""
BUSY = (429, 503)
FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
CONNECT_SECONDS = 5.0


class Lost(Exception):
    """A node broke off or sent what is no answer. The reason is a word for the metrics."""


@dataclass(frozen=True)
class Call:
    """What nodes are asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Whole:
    """A complete answer. `node`: whose it is; none: no node could answer."""

    status: int
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    node: Node | None = None


class Stream:
    """An answer in server-sent events, whole ones only, whose first has come. To be closed."""

    def __init__(self, node: Node, response: httpx2.Response) -> None:
        self.node, self.headers = node, _passed(response)
        self._response = response
        self._raw = response.aiter_raw()
        self._held = bytearray()
        self._first: bytes | None = None
        self._last = b""

    async def begin(self) -> None:
        """Waits for the first event. Raises Lost."""
        self._first = await self.next()
        if self._first is None:
            raise Lost("empty")

    async def next(self) -> bytes | None:
        """The next events, as soon as there is one; None at the end, which is [DONE] or an error. Raises Lost."""
        if self._first is not None:
            piece, self._first = self._first, None
            return piece
        while True:
            try:
                async with self.node.unless_it_hangs():
                    chunk = await anext(self._raw, None)
                self.node.heard()
            except (httpx2.HTTPError, TimeoutError):
                chunk = None
            if chunk is None:
                if not self._last.startswith((b"data: [DONE]", b'data: {"error"')):
                    raise Lost("stream")
                return None
            if piece := self._whole_events(chunk):
                return piece

    async def close(self) -> None:
        """Also the node's side, which then gives up what is not finished."""
        self.node.in_flight -= 1
        await self._response.aclose()

    def _whole_events(self, chunk: bytes) -> bytes:
        start = max(0, len(self._held) - 3)
        self._held += chunk
        ends = [place + len(gap) for gap in (b"\n\n", b"\r\n\r\n") if (place := self._held.rfind(gap, start)) >= 0]
        if not ends:
            if len(self._held) > MAX_ANSWER:
                raise Lost("garbage")
            return b""
        piece = bytes(self._held[: max(ends)])
        del self._held[: max(ends)]
        for event in filter(None, re.split(rb"\r?\n\r?\n", piece)):
            if not event.startswith(FIELDS):
                raise Lost("garbage")
            self._last = event[:16]
        return piece


class Relay:
    """Passes requests on. `client`: never one that follows redirects or takes a proxy from the environment."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def ask(self, call: Call, order: Sequence[Node], search: bool = False) -> Whole | Stream:
        """The first real answer of these nodes; else that they are busy, or have failed, or that there is none.

        `search`: a node that does not know the path (404) is no answer while there is another to ask.
        """
        away: Whole | None = None
        lost = 0
        for place, node in enumerate(order):
            node.retries += place > 0
            try:
                answer = await self._one(node, call)
            except (httpx2.ConnectError, httpx2.ConnectTimeout, ConnectionError) as error:
                node.failed("connect", silent=isinstance(error, httpx2.ConnectTimeout))
            except Lost as error:
                node.failed(str(error))
                lost += 1
                if lost == LOST:
                    break
            else:
                node.answered()
                if isinstance(answer, Stream) or not (answer.status in BUSY or (search and answer.status == 404)):
                    return answer
                away = answer
        return away or Whole(502 if lost else 503)

    async def _one(self, node: Node, call: Call) -> Whole | Stream:
        """Raises ConnectError, ConnectTimeout and Lost."""
        node.in_flight += 1
        node.requests += 1
        response: httpx2.Response | None = None
        kept = False
        try:
            async with node.unless_it_hangs():
                request = self.client.build_request(
                    call.method, f"{node.url}{call.path}", headers=call.headers, content=call.body
                )
                response = await self.client.send(request, stream=True)
                if response.status_code == 200 and _kind(response) == "text/event-stream":
                    stream = Stream(node, response)
                    await stream.begin()
                    kept = True
                    return stream
                return Whole(response.status_code, await _content(response), _passed(response), node)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise
        except TimeoutError:
            raise Lost("hangs") from None
        except httpx2.RemoteProtocolError:
            raise Lost("protocol") from None
        except httpx2.HTTPError:
            raise Lost("broken") from None
        finally:
            if not kept:
                node.in_flight -= 1
                if response is not None:
                    await response.aclose()


async def _content(response: httpx2.Response) -> bytes:
    """The body of an answer that is no stream: JSON, an object. Raises Lost for anything else."""
    parts, size = list[bytes](), 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > MAX_ANSWER:
            raise Lost("garbage")
        parts.append(part)
    content = b"".join(parts)
    if response.status_code == 204 and not content:
        return content
    try:
        plain = isinstance(from_json(content), dict)
    except ValueError:
        plain = False
    if not plain or response.status_code < 200 or 300 <= response.status_code < 400:
        raise Lost("garbage")
    return content


def _kind(response: httpx2.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _passed(response: httpx2.Response) -> dict[str, str]:
    """The headers that go on to the client; what they may say is fixed, too."""
    found = {"content-type": "text/event-stream" if _kind(response) == "text/event-stream" else "application/json"}
    if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", number := response.headers.get("x-request-id", "")):
        found["x-request-id"] = number
    if response.status_code in BUSY:
        wait = response.headers.get("retry-after", "")
        found["retry-after"] = wait if re.fullmatch(r"[0-9]{1,6}", wait) else "1"
    return found
