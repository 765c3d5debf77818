"""Sessions over HTTP (answers by server-sent events) and over a WebSocket, and the page that shows them.

The same words on both: open, image, text (append or revise), commit, close. Over HTTP a session lasts until it is
deleted or idle; a session of a WebSocket ends with it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import ValidationError

from open4ov.engine import access, session_page
from open4ov.engine import session_events as wire
from open4ov.engine.chat import ChatRequest, Refused
from open4ov.engine.request import Completion
from open4ov.engine.request import Request as Asked
from open4ov.engine.service import Busy, Failed, Service
from open4ov.engine.session import Limits, Session, Sessions
from open4ov.engine.session_socket import Conversation
from open4ov.engine.stages import StageError
from open4ov.errors import UserError

CODES = {404: "session_not_found", 409: "answer_under_way", 410: "session_closed", 503: "server_overloaded"}


class Answer(Protocol):
    """One answer on its way out, as chat completions give it."""

    completions: dict[int, Completion]
    found: int

    async def whole(self, request: Request) -> dict[str, Any]: ...

    def stream(self) -> AsyncGenerator[str]: ...


@dataclass(frozen=True)
class Door:
    """What the server lends its sessions, so that both take and give alike: `prepare` checks a chat completion,
    `answer` gives one, `body` reads a request's, `error` and `invalid` say what is wrong."""

    service: Service
    keys: Sequence[str]
    prepare: Callable[[ChatRequest], Awaitable[Asked]]
    answer: Callable[[ChatRequest, Asked], Answer]
    body: Callable[[Request], Awaitable[bytes]]
    error: Callable[[int, str, str, str | None], JSONResponse]
    invalid: Callable[[ValidationError], JSONResponse]


class Desk:
    """What both ways of talking share."""

    def __init__(self, door: Door, limits: Limits | None) -> None:
        self.door, self.sessions = door, Sessions(door.service, limits)

    async def open(self, owner: str, asked: wire.Open) -> Session:
        prepared = await self.door.prepare(wire.with_a_question(asked))
        options = wire.without_the_question(prepared)
        return await self.sessions.open(owner, options, asked)

    async def image(self, session: Session, asked: wire.Image) -> None:
        """Decoded as a chat completion's picture is."""
        try:
            prepared = await self.door.prepare(wire.with_image(session.asked, asked.url))
        except Refused as error:
            raise Refused(error.message, "url", error.status) from None
        await self.sessions.append_image(session, prepared.images[0])

    async def text(self, session: Session, asked: wire.Text) -> None:
        await (session.append_text(asked.append) if asked.revise is None else session.revise(asked.revise))

    async def answer(self, session: Session, asked: wire.Commit, request: Request) -> dict[str, Any]:
        """The whole answer."""
        answer = self.door.answer(wire.answer_options(session.asked, asked), await session.commit())
        try:
            told = await answer.whole(request)
            if answer.completions:
                await self.sessions.answered(session, answer.completions[0].text, answer.found)
            return told
        finally:
            session.give_up()

    async def stream(self, session: Session, asked: wire.Commit) -> AsyncGenerator[str]:
        """The answer as it comes, in events of a chat completion's stream. It has joined the conversation before its
        last piece is given."""
        answer = self.door.answer(wire.answer_options(session.asked, asked), await session.commit())
        events, joined = answer.stream(), False
        try:
            async for event in events:
                if answer.completions and not joined:
                    joined = True
                    await self.sessions.answered(session, answer.completions[0].text, answer.found)
                elif session.closed and not joined:
                    raise Refused(session.closed, status=410)
                yield event
        finally:
            if not joined:
                session.give_up()
            await events.aclose()

    def fault(self, error: Exception) -> JSONResponse:
        """What is said of an exception that was foreseen; others are raised again."""
        error_of = self.door.error
        if isinstance(error, ValidationError):
            return self.door.invalid(error)
        if isinstance(error, Refused):
            code = CODES.get(error.status, "invalid_request_error")
            return _later(error_of(error.status, error.message, code, error.param), error.status == 503)
        if isinstance(error, Busy):
            return _later(error_of(503, "too many requests wait; try again", "server_overloaded", None))
        if isinstance(error, StageError):
            said = "a stage that this answer needs does not answer; try again"
            return _later(error_of(503, said, "stage_unavailable", None))
        if isinstance(error, UserError):
            return error_of(400, str(error), "invalid_request_error", None)
        if isinstance(error, Failed):
            return error_of(500, "the engine made an error", "internal_error", None)
        raise error


def _later(response: JSONResponse, later: bool = True) -> JSONResponse:
    if later:
        response.headers["retry-after"] = "1"
    return response


def router(door: Door, limits: Limits | None = None) -> APIRouter:
    """The routes of the sessions of one server."""
    routes, desk = APIRouter(), Desk(door, limits)

    async def found(request: Request, number: str) -> Session:
        return desk.sessions.get(number, access.owner(request, door.keys) or "")

    async def guarded(work: Awaitable[Response]) -> Response:
        try:
            return await work
        except Exception as error:
            return desk.fault(error)

    @routes.get("/")
    async def page() -> Response:
        return HTMLResponse(session_page.HTML, headers=session_page.HEADERS)

    @routes.post("/v1/sessions")
    async def open_session(request: Request) -> Response:
        async def work() -> Response:
            asked = wire.Open.model_validate_json(await door.body(request))
            session = await desk.open(access.owner(request, door.keys) or "", asked)
            return JSONResponse(session.state(), 201)

        return await guarded(work())

    @routes.get("/v1/sessions/{number}")
    async def state(request: Request, number: str) -> Response:
        async def work() -> Response:
            return JSONResponse((await found(request, number)).state())

        return await guarded(work())

    @routes.post("/v1/sessions/{number}/images")
    async def image(request: Request, number: str) -> Response:
        async def work() -> Response:
            session = await found(request, number)
            await desk.image(session, wire.Image.model_validate_json(await door.body(request)))
            return JSONResponse(session.state())

        return await guarded(work())

    @routes.post("/v1/sessions/{number}/text")
    async def text(request: Request, number: str) -> Response:
        async def work() -> Response:
            session = await found(request, number)
            await desk.text(session, wire.Text.model_validate_json(await door.body(request)))
            return JSONResponse(session.state())

        return await guarded(work())

    @routes.post("/v1/sessions/{number}/commit")
    async def commit(request: Request, number: str) -> Response:
        async def work() -> Response:
            session = await found(request, number)
            asked = wire.Commit.model_validate_json(await door.body(request) or b"{}")
            if not asked.stream:
                return JSONResponse(await desk.answer(session, asked, request))
            events = desk.stream(session, asked)
            first = await anext(events)  # what can be refused is refused before the stream begins
            return StreamingResponse(_chained(first, events, desk.fault), media_type="text/event-stream")

        return await guarded(work())

    @routes.delete("/v1/sessions/{number}")
    async def close(request: Request, number: str) -> Response:
        async def work() -> Response:
            session = await found(request, number)
            await desk.sessions.close(session)
            return JSONResponse({"id": session.id, "object": "session.deleted", "deleted": True})

        return await guarded(work())

    @routes.websocket("/v1/sessions/ws")
    async def talk(socket: WebSocket) -> None:
        denied = access.denial(socket, door.keys)
        if denied is not None:
            await socket.send_denial_response(door.error(denied.status, denied.message, denied.code, None))
            return
        await Conversation(desk, socket, access.owner(socket, door.keys) or "").hold()

    return routes


async def _chained(
    first: str, rest: AsyncGenerator[str], fault: Callable[[Exception], JSONResponse]
) -> AsyncGenerator[str]:
    try:
        yield first
        async for event in rest:
            yield event
    except Exception as error:
        yield f"data: {json.dumps(json.loads(bytes(fault(error).body)), ensure_ascii=False)}\n\n"
    finally:
        await rest.aclose()
