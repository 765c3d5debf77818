"""Sessions over HTTP (answers by server-sent events) and over a WebSocket, and the page that shows them.

The same words on both: open, image, text (append or revise), commit, close. Over HTTP a session lasts until it is
deleted or idle; a session of a WebSocket ends with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse, Response

from open4ov.engine.serving import body
from open4ov.engine.serving.answer import Events, told, while_there
from open4ov.engine.serving.keys import TENANT
from open4ov.engine.sessions import events as wire
from open4ov.engine.sessions import page as session_page
from open4ov.engine.sessions.desk import Desk, Door
from open4ov.engine.sessions.session import Limits, Session
from open4ov.engine.sessions.socket import Conversation


def router(door: Door, limits: Limits | None = None) -> APIRouter:
    """The routes of the sessions of one server."""
    routes, desk = APIRouter(), Desk(door, limits)

    def owner(connection: Request | WebSocket) -> str:
        headers = connection.headers
        return door.gate.tenant(headers.get("authorization", ""), headers.get(TENANT, "")) or ""

    def found(request: Request, number: str) -> Session:
        return desk.sessions.get(number, owner(request))

    async def read(request: Request) -> bytes:
        return await body.read(request, request.state.visit)

    async def guarded(request: Request, work: Callable[[bytes], Coroutine[Any, Any, Response]]) -> Response:
        """Reads the body and does the work, as long as the client is there."""
        try:
            return await while_there(request, work(await read(request)))
        except Exception as error:
            return told(error)

    async def bare(work: Awaitable[Response]) -> Response:
        try:
            return await work
        except Exception as error:
            return told(error)

    @routes.get("/")
    async def page() -> Response:
        return HTMLResponse(session_page.HTML, headers=session_page.HEADERS)

    @routes.post("/v1/sessions", status_code=201)
    async def open_session(request: Request) -> Response:
        async def work(content: bytes) -> Response:
            asked = wire.Open.model_validate_json(content)
            session = await desk.open(owner(request), asked, request.state.visit)
            return JSONResponse(session.state(), 201)

        return await guarded(request, work)

    @routes.get("/v1/sessions/{number}")
    async def state(request: Request, number: str) -> Response:
        async def work() -> Response:
            return JSONResponse(found(request, number).state())

        return await bare(work())

    @routes.post("/v1/sessions/{number}/images")
    async def image(request: Request, number: str) -> Response:
        async def work(content: bytes) -> Response:
            session = found(request, number)
            await desk.image(session, wire.Image.model_validate_json(content), request.state.visit)
            return JSONResponse(session.state())

        return await guarded(request, work)

    @routes.post("/v1/sessions/{number}/text")
    async def text(request: Request, number: str) -> Response:
        async def work(content: bytes) -> Response:
            session = found(request, number)
            await desk.text(session, wire.Text.model_validate_json(content))
            return JSONResponse(session.state())

        return await guarded(request, work)

    @routes.post("/v1/sessions/{number}/commit")
    async def commit(request: Request, number: str) -> Response:
        async def work(content: bytes) -> Response:
            session = found(request, number)
            asked = wire.Commit.model_validate_json(content or b"{}")
            if not asked.stream:
                return JSONResponse(await desk.answer(session, asked))
            events = desk.stream(session, asked)
            first = await anext(events)  # what can be refused is refused before the stream begins
            return Events(first, events)

        return await guarded(request, work)

    @routes.delete("/v1/sessions/{number}")
    async def close(request: Request, number: str) -> Response:
        async def work() -> Response:
            session = found(request, number)
            await desk.sessions.close(session)
            return JSONResponse({"id": session.id, "object": "session.deleted", "deleted": True})

        return await bare(work())

    @routes.websocket("/v1/sessions/ws")
    async def talk(socket: WebSocket) -> None:
        denied = door.gate.denial(socket)
        if denied is not None:
            await socket.send_denial_response(denied)
            return
        await Conversation(desk, socket, owner(socket)).hold()

    return routes
