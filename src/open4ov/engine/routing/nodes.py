"""The servers behind a router: which of them answer, what each has under way, and which of them a key belongs to."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx2

from open4ov.engine.routing.affinity import Key
from open4ov.engine.routing.ring import Ring
from open4ov.errors import UserError

FAILURES = 3
"""So many in a row and a node is out"""


class Node:
    """One server. It is out until a health check succeeds, and again after FAILURES failures in a row.

    A node that is out and has said nothing for `patience` seconds hangs: nobody waits for its answers any longer. One
    that goes on with a stream does not, however slow its health checks are, nor one that refuses connections: it may be
    finishing what is under way before it goes.
    """

    def __init__(self, url: str, patience: float = 30.0) -> None:
        self.url, self.patience = url, patience
        self._heard = time.monotonic()
        self.healthy = self.hangs = False
        self.in_row = self.in_flight = self.requests = 0
        self.failures: Counter[str] = Counter()
        self.retries = 0
        self._limits: set[asyncio.Timeout] = set()

    def succeeded(self) -> None:
        """A health check did."""
        self.healthy, self.hangs, self.in_row = True, False, 0
        self.heard()

    def answered(self) -> None:
        """A request was; failures no longer follow one another."""
        self.in_row = 0
        self.heard()

    def heard(self) -> None:
        """It has said something."""
        self._heard = time.monotonic()

    def failed(self, reason: str, silent: bool = False) -> None:
        """A check or a request failed. `silent`: there was no answer in time, rather than a refusal."""
        self.failures[reason] += 1
        self.in_row += 1
        if self.in_row < FAILURES:
            return
        self.healthy = False
        if silent and not self.hangs and time.monotonic() - self._heard >= self.patience:
            self.hangs = True
            for limit in self._limits:
                limit.reschedule(0)

    @asynccontextmanager
    async def unless_it_hangs(self) -> AsyncGenerator[None]:
        """Waits for this node within: TimeoutError once it hangs."""
        async with asyncio.timeout(0 if self.hangs else None) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)


class Nodes:
    """Those of one router, by address. `interval`, `timeout`: of the health checks, in seconds; `patience`: seconds of
    silence, checks failing, after which a node hangs."""

    def __init__(
        self, addresses: Sequence[str], interval: float = 2.0, timeout: float = 5.0, patience: float = 30.0
    ) -> None:
        self.all = {url: Node(url, patience) for url in map(address, addresses)}
        if not addresses or len(self.all) < len(addresses):
            raise UserError(
                "a router needs nodes, each once: open4ov route http://127.0.0.1:8001 http://127.0.0.1:8002"
            )
        self.interval, self.timeout = interval, timeout
        self._ring = Ring(self.all)

    def order(self, key: Key | None) -> list[Node]:
        """Those that are up, in the order in which they are to be asked; without a key the least loaded is first."""
        loads = {url: node.in_flight for url, node in self.all.items() if node.healthy}
        if key is None:
            return sorted((self.all[url] for url in loads), key=lambda node: (node.in_flight, node.requests))
        return [self.all[url] for url in self._ring.bounded(key.digest, loads)]

    def own(self, key: Key) -> Node:
        """The node a key belongs to, whether it is up or not."""
        return self.all[self._ring.order(key.digest)[0]]

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        """Within, health is checked at the interval; it is known from the start on."""
        # a connection of its own for each check: a node that takes no new ones is not well
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(trust_env=False, timeout=self.timeout, limits=limits) as client:
            await asyncio.gather(*(self._check(client, node) for node in self.all.values()))
            watching = [asyncio.create_task(self._watch(client, node)) for node in self.all.values()]
            try:
                yield
            finally:
                for task in watching:
                    task.cancel()
                await asyncio.gather(*watching, return_exceptions=True)

    async def _watch(self, client: httpx2.AsyncClient, node: Node) -> None:
        while True:
            await asyncio.sleep(self.interval)
            await self._check(client, node)

    async def _check(self, client: httpx2.AsyncClient, node: Node) -> None:
        try:
            async with asyncio.timeout(self.timeout), client.stream("GET", f"{node.url}/health") as response:
                if response.status_code == 200:
                    return node.succeeded()
            node.failed("health")
        except (TimeoutError, httpx2.TimeoutException):
            node.failed("health", silent=True)
        except (httpx2.HTTPError, OSError):
            node.failed("health")


def address(text: str) -> str:
    """A node's address without a slash at its end. Raises UserError for anything but http(s)://HOST:PORT."""
    parts = urlsplit(text.rstrip("/"))
    try:
        port = parts.port
    except ValueError:
        port = None
    plain = re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]+", text.rstrip("/"))
    if not plain or not port:
        raise UserError(f"{text}: not a node's address; write it as http://HOST:PORT")
    return text.rstrip("/").lower()
