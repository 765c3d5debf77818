"""`open4ov route`: one address for several servers.

Requests of one session, about one picture, or of one conversation go to the same node; a node that fails is passed
over. Nodes are those of the command line, and what goes on to them is fixed here: no client can have it connect
elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI, Request, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from open4ov.engine.routing import gate as gate
from open4ov.engine.routing import relay_socket
from open4ov.engine.routing.affinity import Key, key_of
from open4ov.engine.routing.metrics import RouterMetrics
from open4ov.engine.routing.nodes import Node, Nodes
from open4ov.engine.routing.passing import Passing
from open4ov.engine.routing.relay import CONNECT_SECONDS, Call, Relay, Stream, Whole
from open4ov.engine.serving import body
from open4ov.engine.serving.faults import Refused, error, without_route
from open4ov.engine.serving.gate import MAX_HELD
from open4ov.engine.serving.keys import TENANT, Keys
from open4ov.engine.serving.room import Full, Room, TooMuch

HEADERS = ("accept", "content-type", "x-session-id")
"""What of a client's headers goes on, besides its key and the request's number"""
SESSIONS = 100_000
"""Sessions whose node is remembered; of one that is forgotten all nodes are asked"""
LARGE = 2**18
"""Bytes of a body whose pictures are not decoded on the event loop"""
NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
ACTION = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,3}")
"""What may follow a session's name in a path"""


class Router:
    """Where a request goes. `node_key`: the key of the nodes, which are told whose a request is beside it (a digest of
    the client's key among `keys`); without one they get the client's."""

    def __init__(
        self, nodes: Nodes, client: httpx2.AsyncClient, node_key: str | None = None, keys: Keys | None = None
    ) -> None:
        self.keys = keys or Keys(())
        self.nodes, self.relay, self.node_key = nodes, Relay(client), node_key
        self.metrics = RouterMetrics()
        self._sessions: OrderedDict[str, Node] = OrderedDict()

    def headers(self, given: Headers, number: str) -> dict[str, str]:
        """Those of a request to a node."""
        found = {name: given[name] for name in HEADERS if name in given}
        authorization = given.get("authorization", "")
        if self.node_key:
            found["authorization"] = f"Bearer {self.node_key}"
            client = self.keys.given(authorization) or b""
            found[TENANT] = hmac.new(self.node_key.encode(), client, hashlib.sha256).hexdigest()
        elif authorization:
            found["authorization"] = authorization
        return {**found, "x-request-id": number, "accept-encoding": "identity"}

    async def ask(self, call: Call, key: Key | None) -> Whole | Stream:
        """Asks the nodes in the order of the key."""
        answer = await self.relay.ask(call, self.nodes.order(key))
        if answer.node is not None:
            kind, result = "none", "least_loaded"
            if key is not None:
                kind, result = key.kind, "hit" if answer.node is self.nodes.own(key) else "moved"
            self.metrics.affinity[kind, result] += 1
        return answer

    async def open_session(self, call: Call, key: Key | None) -> Whole | Stream:
        """Begins a session: what is asked of it later goes to the node that has it."""
        answer = await self.ask(call, key)
        if isinstance(answer, Whole) and answer.node is not None and answer.status < 300:
            name = from_json(answer.content).get("id")
            if isinstance(name, str):
                self.remember(name, answer.node)
        return answer

    async def ask_session(self, call: Call, name: str) -> Whole | Stream:
        """Asks the node that has the session, and no other; if it is not known which, all until one has it."""
        node = self._sessions.get(name)
        if node is None:
            answer = await self.relay.ask(call, self.nodes.order(None), search=True)
            if answer.node is not None and not (isinstance(answer, Whole) and answer.status == 404):
                self.remember(name, answer.node)
            return answer
        self._sessions.move_to_end(name)
        answer = await self.relay.ask(call, [node])
        if answer.node is not None:
            self.metrics.affinity["session", "hit"] += 1
        return answer

    def remember(self, name: str, node: Node) -> None:
        """Where a session is."""
        self._sessions[name] = node
        self._sessions.move_to_end(name)
        if len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)


def create_app(nodes: Nodes, keys: Sequence[str] = (), node_key: str | None = None) -> FastAPI:
    """The application. `keys`: those that are let in (none: everybody); `node_key`: what the nodes want."""
    timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)  # who waits too long for an answer: see Node.hangs
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    client = httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout, limits=limits)
    known = Keys(keys)
    router = Router(nodes, client, node_key, known)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with client, nodes.watched():
            yield

    app = FastAPI(title="open4ov router", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.room = Room(MAX_HELD)
    app.add_middleware(gate.Gate, keys=known, room=app.state.room)  # pyright: ignore[reportArgumentType]

    async def call_of(request: Request) -> Call:
        content = await body.read(request, request.state.visit) if request.method != "GET" else b""
        path = request.scope["path"]
        return Call(request.method, path, router.headers(request.headers, request.state.request_id), content)

    @app.get("/health")
    async def health() -> Response:
        up = any(node.healthy for node in nodes.all.values())
        return PlainTextResponse("ok\n") if up else PlainTextResponse("no node is up\n", 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(router.metrics.text(nodes), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return Passing(router.ask(await call_of(request), None))

    @app.post("/v1/chat/completions")
    @app.post("/v1/embeddings")
    async def answered(request: Request) -> Response:
        call = await call_of(request)
        session = request.headers.get("x-session-id")
        large = len(call.body) > LARGE
        key = await run_in_threadpool(key_of, session, call.body) if large else key_of(session, call.body)
        return Passing(router.ask(call, key))

    @app.post("/v1/sessions")
    async def open_session(request: Request) -> Response:
        key = key_of(request.headers.get("x-session-id"), b"")
        return Passing(router.open_session(await call_of(request), key))

    @app.websocket("/v1/sessions/ws")
    async def socket(client: WebSocket) -> None:
        order = nodes.order(key_of(client.headers.get("x-session-id"), b""))
        headers = router.headers(client.headers, client.state.request_id)
        await relay_socket.relay(client, order, "/v1/sessions/ws", headers)

    @app.api_route("/v1/sessions/{name}", methods=["GET", "POST", "DELETE"])
    @app.api_route("/v1/sessions/{name}/{action:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def of_session(request: Request, name: str, action: str | None = None) -> Response:
        if not NAME.fullmatch(name) or (action is not None and not ACTION.fullmatch(action)):
            return error(404, "there is no such route", "not_found")
        return Passing(router.ask_session(await call_of(request), name), "the session's node is not up; try again")

    @app.exception_handler(Refused)
    async def refused(request: Request, fault: Refused) -> Response:
        return error(fault.status, fault.message, fault.code, fault.param)

    @app.exception_handler(Full)
    async def full(request: Request, _error_: Exception) -> Response:
        return error(503, "too many requests wait; try again", "server_overloaded", retry=1)

    @app.exception_handler(TooMuch)
    async def too_much(request: Request, _error_: Exception) -> Response:
        said = "the requests of this key under way hold too much; try again when they are over"
        return error(429, said, "rate_limited", retry=1)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, _error_: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    without_route(app)
    return app
