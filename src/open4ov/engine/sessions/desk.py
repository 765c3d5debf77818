"""What a session is asked for, whichever way it comes: checked as a chat completion is, and answered as one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from open4ov.engine.request import Request
from open4ov.engine.service import Service
from open4ov.engine.serving.answer import Answer
from open4ov.engine.serving.chat import ChatRequest
from open4ov.engine.serving.faults import Refused
from open4ov.engine.serving.gate import Gate, Visit
from open4ov.engine.sessions import events as wire
from open4ov.engine.sessions.session import Limits, Session, gone
from open4ov.engine.sessions.sessions import Sessions


@dataclass(frozen=True)
class Door:
    """What the server lends its sessions. `prepare` checks a chat completion and decodes its pictures."""

    service: Service
    gate: Gate
    prepare: Callable[[ChatRequest, Visit], Awaitable[Request]]


class Desk:
    """The sessions of a server, and what is done with them. Faults are raised; `answer.told` has words for them."""

    def __init__(self, door: Door, limits: Limits | None = None) -> None:
        self.door, self.sessions = door, Sessions(door.service, limits)

    async def open(self, owner: str, asked: wire.Open, visit: Visit) -> Session:
        prepared = await self.door.prepare(wire.with_a_question(asked), visit)
        return await self.sessions.open(owner, wire.without_the_question(prepared), asked)

    async def image(self, session: Session, asked: wire.Image, visit: Visit) -> None:
        try:
            prepared = await self.door.prepare(wire.with_image(session.asked, asked.url), visit)
        except Refused as error:
            raise Refused(error.message, "url", error.status, error.code) from None
        await self.sessions.append_image(session, prepared.images[0])

    async def text(self, session: Session, asked: wire.Text) -> None:
        await (session.append_text(asked.append) if asked.revise is None else session.revise(asked.revise))

    async def answer(self, session: Session, asked: wire.Commit) -> dict[str, Any]:
        """The whole answer."""
        answer = await self._begin(session, asked)
        try:
            told = await answer.whole()
            await self.sessions.answered(session, answer.completions[0].text, answer.found)
            return told
        finally:
            session.give_up()

    async def stream(self, session: Session, asked: wire.Commit) -> AsyncGenerator[str]:
        """The answer as it comes, in events of a chat completion's stream. It has joined the conversation before its
        last piece is given. Raises Refused when the session is closed meanwhile."""
        answer, joined = await self._begin(session, asked), False
        events = answer.stream()
        try:
            async for event in events:
                if answer.completions and not joined:
                    joined = True
                    await self.sessions.answered(session, answer.completions[0].text, answer.found)
                elif session.closed and not joined:
                    raise gone(session.closed)
                yield event
        finally:
            if not joined:
                session.give_up()
            await events.aclose()

    async def _begin(self, session: Session, asked: wire.Commit) -> Answer:
        options = wire.answer_options(session.asked, asked)
        return Answer(self.door.service, options, await session.commit())
