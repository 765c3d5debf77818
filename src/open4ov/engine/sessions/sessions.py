"""The sessions of a server: how many there may be and what they may hold together, whose each is, and when one ends."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from PIL import Image

from open4ov.engine.request import Request
from open4ov.engine.service import Service
from open4ov.engine.serving.faults import Refused
from open4ov.engine.serving.room import Full, Room, TooMuch
from open4ov.engine.sessions.events import Open
from open4ov.engine.sessions.session import Limits, Session, bytes_of, gone

REMEMBERED = 1024
"""So many closed sessions are remembered, to say why they are gone."""


class Sessions:
    """The sessions of a server. Ids cannot be guessed, and are good for the one who opened the session only."""

    def __init__(self, service: Service, limits: Limits | None = None) -> None:
        self.service, self.limits = service, limits or Limits()
        self._open: dict[str, Session] = {}
        self._gone: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._opening, self._room = 0, Room(self.limits.picture_bytes)
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, owner: str, options: Request, asked: Open) -> Session:
        """A new session. Raises Refused: too many are open, or what it begins with is too large."""
        if len(self._open) + self._opening >= self.limits.sessions:
            raise _full("too many sessions are open; close one or try again later")
        if owner and sum(one.owner == owner for one in self._open.values()) >= self.limits.per_key:
            raise Refused(
                "too many sessions of this key are open; close one or try again later", status=429, code="rate_limited"
            )
        session = Session(self.service, owner, options, asked, self.limits)
        if len(session.images) > self.limits.images:
            raise Refused(f"at most {self.limits.images} images in a session", "messages")
        self._opening += 1
        try:
            self._reserve(owner, session.picture_bytes)
            try:
                await session.begin()
            except BaseException:
                self._room.give_back(owner, session.picture_bytes)
                raise
        finally:
            self._opening -= 1
        self._open[session.id] = session
        self.service.metrics.sessions_open += 1
        self._watch(session)
        return session

    def get(self, number: str, owner: str) -> Session:
        """The session of that id. Raises Refused: there is none (any more)."""
        if (session := self._open.get(number)) and session.owner == owner:
            return session
        whose, why = self._gone.get(number, (None, ""))
        if whose == owner:
            raise gone(why)
        raise Refused("there is no such session", status=404, code="session_not_found")

    async def append_image(self, session: Session, image: Image.Image) -> None:
        """As the session's own, within what all sessions' pictures may have together."""
        self._reserve(session.owner, bytes_of(image))
        try:
            await session.append_image(image)
        except BaseException:
            self._room.give_back(session.owner, bytes_of(image))
            raise

    async def answered(self, session: Session, text: str, found: int) -> None:
        """The session's answer joins its conversation. `found`: tokens of the prompt that had been computed before. A
        session that has no room for it, or that was closed meanwhile, ends here."""
        self.service.metrics.session_found_tokens += found
        try:
            await session.answered(text)
        except Refused:
            await self.close(session, "the conversation has no room for another turn; open another session")

    async def close(self, session: Session, why: str = "the session is closed; open another") -> None:
        """Closes a session, if it is open still."""
        if self._open.pop(session.id, None) is None:
            return
        self.service.metrics.sessions_open -= 1
        self._room.give_back(session.owner, session.picture_bytes)
        self._gone[session.id] = (session.owner, why)
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
        await session.close(why)

    def _reserve(self, owner: str, size: int) -> None:
        try:
            self._room.take(owner, size)
        except Full:
            raise _full("the sessions' images take all the room there is; try again later") from None
        except TooMuch:
            said = "the images of this key's sessions take all the room that one key may have; close a session first"
            raise Refused(said, status=429, code="rate_limited") from None

    def _watch(self, session: Session) -> None:
        """Closes the session once it has been idle for too long."""
        if session.closed:
            return
        loop = asyncio.get_running_loop()
        left = self.limits.idle if session.answering else session.touched + self.limits.idle - loop.time()
        if left > 0:
            loop.call_later(left, self._watch, session)
            return
        why = f"the session was closed after {self.limits.idle:g} s without a message; open another"
        task = loop.create_task(self.close(session, why))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _full(message: str) -> Refused:
    return Refused(message, status=503, code="server_overloaded")
