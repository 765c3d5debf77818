"""The way to an endpoint, under the official client: no redirect is followed, no reply is larger or later than allowed.

A reply is read here, whole, so that what a broken or hostile server sends ends as a `Fault` with its kind, never as an
exception of a parser, a full memory or a thread that waits for ever.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from open4ov.mllm.local import DEFAULT_URL, Local
from open4ov.mllm.proxies import proxy_of

LARGEST = 8 * 2**20
"""Bytes of a reply"""


class Fault(openai.OpenAIError):
    """A request that brought no usable reply: `kind` for counting, and a reason without any of the reply's content.

    `again`: whether another try may help. An OpenAIError, since the client passes those on as they are.
    """

    def __init__(self, kind: str, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.again = kind, reason, again


class Transport(httpx2.BaseTransport):
    """`timeout`: seconds for the whole reply. With `local`, a connection to another address ends before it is used, and
    no proxy is. `where` names the option that the address is from. Raises UserError for a proxy that cannot be used.
    """

    def __init__(self, url: str | None, timeout: float, local: Local | None, where: str) -> None:
        host = urlsplit(url or DEFAULT_URL).hostname or ""
        self._timeout, self._named = timeout, local is not None and local.named(host)
        self._local = local
        proxy = None if local else proxy_of(url or DEFAULT_URL, where)
        secure = (url or DEFAULT_URL).startswith("https:") or (proxy or "").startswith("https:")
        # One connection each: a pool looks at all of its connections twice a request.
        self._make = partial(
            httpx2.HTTPTransport,
            verify=httpx2.create_ssl_context(verify=secure),  # without need no certificates are loaded
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
            proxy=proxy,
        )
        self._all = [self._make()]
        self._free = deque(self._all)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        end = time.monotonic() + self._timeout
        if self._local is not None and not self._named:
            request.extensions = {**request.extensions, "trace": self._look}
        try:
            inner = self._free.pop()
        except IndexError:  # as many as are under way at once, in the end
            inner = self._make()
            self._all.append(inner)
        try:
            response = inner.handle_request(request)
            try:
                body = self._read(response, end)
            finally:
                response.close()
        except httpx2.ProxyError:
            raise Fault("unreachable", "the proxy of the environment refuses the connection", again=True) from None
        except httpx2.ConnectError:
            raise Fault("unreachable", "no connection to the endpoint; is it up?", again=True) from None
        except httpx2.TimeoutException as error:
            if isinstance(error, httpx2.ConnectTimeout):
                raise Fault("unreachable", "no connection to the endpoint; is it up?", again=True) from None
            raise self._late() from None
        except httpx2.TransportError:
            raise Fault("closed", "the endpoint closed the connection in the middle of its reply", again=True) from None
        finally:
            self._free.append(inner)
        return httpx2.Response(response.status_code, headers=response.headers, content=body, request=request)

    def _read(self, response: httpx2.Response, end: float) -> bytes:
        status, headers = response.status_code, response.headers
        if 300 <= status < 400:
            raise Fault(
                "redirect",
                "the endpoint redirects elsewhere, which is never followed; give the final address as base_url",
                again=False,
            )
        if headers.get("content-encoding", "identity") != "identity":
            raise Fault("encoding", "the reply is compressed, which was not asked for", again=False)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        pieces: list[bytes] = []
        length = 0
        for piece in response.stream:
            length += len(piece)
            if length > LARGEST:
                raise Fault("huge", f"the reply is larger than {LARGEST // 2**20} MiB", again=False)
            if time.monotonic() > end:
                raise self._late()
            pieces.append(piece)
        body = b"".join(pieces)
        if status == 200:
            if not body.strip():
                raise Fault("empty", "the reply is empty", again=True)
            if body.lstrip()[:1] == b"<":
                raise Fault("html", "the reply is a web page, no answer; is base_url right?", again=True)
            if "json" not in headers.get("content-type", "json"):
                raise Fault("not_json", "the reply is no JSON; is base_url right?", again=True)
        return body

    def _late(self) -> Fault:
        return Fault("timeout", f"no answer within {self._timeout:g} s (data.providers.*.timeout)", again=True)

    def _look(self, event: str, info: dict[str, Any]) -> None:
        if event != "connection.connect_tcp.complete":
            return
        assert self._local is not None
        address = info["return_value"].get_extra_info("server_addr")
        if not address or not self._local.allows(str(address[0])):
            info["return_value"].close()
            raise Fault("not_local", "data.local_only is set, and the host's name leads off this machine", again=False)

    def close(self) -> None:
        for inner in self._all:
            inner.close()
