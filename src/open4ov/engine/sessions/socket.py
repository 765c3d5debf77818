"""One session over a WebSocket: messages in, its state and the answer's pieces out. It ends with the socket."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from fastapi.responses import Response

from open4ov.engine.serving.answer import told
from open4ov.engine.serving.faults import Refused
from open4ov.engine.serving.gate import Visit
from open4ov.engine.sessions import events as wire
from open4ov.engine.sessions.desk import Desk
from open4ov.engine.sessions.session import Session

IDLE = 4408
"""Closed after too long without a message"""


class Conversation:
    """A WebSocket's side of a session, from its acceptance to its end."""

    def __init__(self, desk: Desk, socket: WebSocket, owner: str) -> None:
        self.desk, self.socket, self.owner = desk, socket, owner
        self.session: Session | None = None
        self.answer: asyncio.Task[None] | None = None

    async def hold(self) -> None:
        """Answers messages until the client leaves, or has been silent for too long."""
        await self.socket.accept()
        try:
            while True:
                try:
                    message = await asyncio.wait_for(self.socket.receive(), self.desk.sessions.limits.idle)
                except TimeoutError:
                    if self._answering:
                        continue
                    await self.socket.close(IDLE, "too long without a message")
                    return
                if message["type"] == "websocket.disconnect" or not await self._heard(message.get("text")):
                    return
        finally:
            await self._stop()
            if self.session is not None:
                await self.desk.sessions.close(self.session)

    @property
    def _answering(self) -> bool:
        return self.answer is not None and not self.answer.done()

    async def _heard(self, text: str | None) -> bool:
        """Does what a message asks for; False when that is the end."""
        try:
            if text is None:
                raise Refused("messages are text, in JSON")
            asked = wire.event(text)
            if isinstance(asked, wire.OpenEvent | wire.ImageEvent):
                with self.desk.door.gate.visit(self.owner) as visit:
                    visit.hold(len(text))
                    if isinstance(asked, wire.OpenEvent):
                        await self._open(asked, visit)
                    else:
                        await self._image(asked, visit)
                return True
            if isinstance(asked, wire.BareEvent):
                await self._stop()
                if asked.type == "close":
                    await self.socket.close()
                    return False
            session = self._known()
            if isinstance(asked, wire.TextEvent):
                await self.desk.text(session, asked)
            elif isinstance(asked, wire.CommitEvent):
                if self._answering:
                    raise Refused(
                        "the answer is under way: wait for its end, or cancel it", status=409, code="answer_under_way"
                    )
                self.answer = asyncio.create_task(self._answer(session, asked))
                return True
            await self._say("state", session=session.state())
        except Exception as error:
            await self._say("error", **_content(told(error)))
        return True

    async def _image(self, asked: wire.ImageEvent, visit: Visit) -> None:
        session = self._known()
        await self.desk.image(session, asked, visit)
        await self._say("state", session=session.state())

    async def _open(self, asked: wire.OpenEvent, visit: Visit) -> None:
        if self.session is not None:
            raise Refused("this socket has its session already", "type", 409)
        self.session = await self.desk.open(self.owner, asked, visit)
        await self._say("opened", session=self.session.state())

    async def _answer(self, session: Session, asked: wire.CommitEvent) -> None:
        commit = wire.Commit(stream=True, stream_options=asked.stream_options)
        events = self.desk.stream(session, commit)
        try:
            with self.desk.door.gate.visit(self.owner):
                async for event in events:
                    content = event.removeprefix("data: ").strip()
                    if content == "[DONE]":
                        await self._say("done", session=session.state())
                    else:
                        await self._say("chunk", chunk=json.loads(content))
        except Exception as error:
            await self._say("error", **_content(told(error)))
        finally:
            await events.aclose()

    def _known(self) -> Session:
        if self.session is None:
            raise Refused("open the session first", "type")
        return self.session

    async def _stop(self) -> None:
        """Gives up the answer, if one is under way."""
        if self.answer is not None and self._answering:
            self.answer.cancel()
            await asyncio.wait([self.answer])

    async def _say(self, kind: str, **content: Any) -> None:
        with suppress(WebSocketDisconnect):  # `hold` is told so too
            await self.socket.send_text(json.dumps({"type": kind, **content}, ensure_ascii=False))


def _content(response: Response) -> dict[str, Any]:
    return json.loads(bytes(response.body))
