"""Requests shared out over several servers, so that neither a slow one nor one that dies holds up the others."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import TypeVar

S = TypeVar("S", bound=Hashable)
A = TypeVar("A")


class Lost(Exception):
    """No usable answer this time; another try, or another server, may bring one."""


async def share(
    servers: Sequence[S],
    places: Iterable[int],
    ask: Callable[[S, int], Awaitable[A]],
    most: int,
    take: Callable[[int, A], None],
    drop: Callable[[S, Lost], None],
) -> None:
    """Asks for every place (a request by its number) and gives the answers to `take` as they come.

    The next place goes to the server with the fewest under way, `most` at a time; the rest waits for whoever has
    finished something. A server that has nothing left to do takes over what another one has begun last: the first
    answer counts, the other is given up. One that raises Lost gets no more (`drop` is told once); its places go to the
    others.

    Raises Lost when no server is left; whatever else `ask` raises ends all at once.
    """
    waiting, alive = deque(places), list(servers)
    left = set(waiting)
    under: dict[asyncio.Future[A], tuple[S, int]] = {}
    """What is under way, in the order in which it began"""
    given_up: list[asyncio.Future[A]] = []
    try:
        while left:
            while (chosen := _next(alive, under, waiting, most)) is not None:
                under[asyncio.ensure_future(ask(*chosen))] = chosen
            if not under:
                raise Lost("no server is left")
            done, _ = await asyncio.wait(under, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task not in under:  # another server's answer came at the same moment
                    continue
                server, place = under.pop(task)
                fault = task.exception()
                if fault is not None and not isinstance(fault, Lost):
                    raise fault
                if fault is not None:
                    if server in alive:
                        alive.remove(server)
                        drop(server, fault)
                    if all(place != other for _, other in under.values()):
                        waiting.appendleft(place)
                    continue
                left.discard(place)
                for other in [other for other, (_, its) in under.items() if its == place]:
                    del under[other]
                    given_up.append(other)
                    other.cancel()
                take(place, task.result())
    finally:
        for task in under:
            task.cancel()
        await asyncio.gather(*under, *given_up, return_exceptions=True)


def _next(
    alive: Sequence[S], under: dict[asyncio.Future[A], tuple[S, int]], waiting: deque[int], most: int
) -> tuple[S, int] | None:
    """Who is asked next, and for which place; None when there is nothing to ask for now."""
    busy = Counter(server for server, _ in under.values())
    free = [server for server in alive if busy[server] < most]
    if not free:
        return None
    server = min(free, key=lambda one: busy[one])
    if waiting:
        return server, waiting.popleft()
    if busy[server]:
        return None
    asked = Counter(place for _, place in under.values())
    others = [(other, place) for other, place in reversed(under.values()) if asked[place] == 1]
    if not others:
        return None
    return server, max(others, key=lambda one: busy[one[0]])[1]
