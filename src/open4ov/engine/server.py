"""The HTTP server: OpenAI's chat completions over an engine, closed by default.

Every route but `/health` wants a key where keys are set; without keys only this machine can connect. Bodies, pictures,
texts and numbers have limits, a queue that is full says so (503), and errors have fixed words.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from open4ov.engine.degeneration import Degeneration
from open4ov.engine.grammar import Grammars
from open4ov.engine.openapi import describe
from open4ov.engine.service import Service
from open4ov.engine.serving import body
from open4ov.engine.serving import chat as wire
from open4ov.engine.serving.answer import Answer, Events, told, while_there
from open4ov.engine.serving.decoder import Decoder
from open4ov.engine.serving.faults import Refused, error, without_route
from open4ov.engine.serving.fetch import Fetcher
from open4ov.engine.serving.gate import Gate, Guard, Visit
from open4ov.engine.serving.pictures import Pictures
from open4ov.engine.sessions.desk import Door
from open4ov.engine.sessions.routes import router
from open4ov.engine.sessions.session import Limits


def create_app(
    service: Service,
    name: str,
    keys: Sequence[str] = (),
    watch: Degeneration | None = None,
    *,
    max_per_key: int = 0,
    share_cache: bool = False,
    fetcher: Fetcher | None = None,
    limits: Limits | None = None,
    router_keys: Sequence[str] = (),
) -> FastAPI:
    """The application. `name`: what the model is called (the engine's adapters are models under names of their own);
    `keys`: those that are let in (none: everybody); `watch`: when a response is stopped because it has
    degenerated (None: never); `max_per_key`, `share_cache` and `router_keys`: see `Gate`; `fetcher`: by which pictures
    at https URLs are fetched (None: they are not); `limits`: of sessions."""
    gate, pictures = Gate(keys, max_per_key, share_cache, router_keys=router_keys), Pictures(Decoder(), fetcher)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        pictures.decoder.warm()
        yield
        pictures.decoder.close()

    app = FastAPI(title="open4ov", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, gate=gate)
    app.state.gate, app.state.pictures = gate, pictures
    room = service.engine.longest
    grammars = Grammars(service.engine.processor, service.engine.model.config.text.vocab_size)

    @app.get("/health")
    async def health() -> Response:
        if gate.ending:
            return PlainTextResponse("the server is ending\n", 503)
        return PlainTextResponse("ok\n") if service.alive else PlainTextResponse("the engine has stopped\n", 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        text = service.metrics.text(service.engine) + (service.decode.metrics.text() if service.decode else "")
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(describe(app))

    @app.get("/v1/models")
    async def models() -> Response:
        model = {"id": name, "object": "model", "created": 0, "owned_by": "open4ov", "max_model_len": room}
        adapted = [{**model, "id": adapter, "parent": name} for adapter in service.engine.adapters.names]
        return JSONResponse({"object": "list", "data": [model, *adapted]})

    @app.post("/v1/embeddings")
    async def embeddings() -> Response:
        return error(400, "this model gives no embeddings", "model_not_supported", "model")

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        visit: Visit = request.state.visit
        try:
            asked = wire.ChatRequest.model_validate_json(await body.read(request, visit))
            return await while_there(request, answered(asked, visit))
        except Exception as error:
            return told(error)

    async def prepare(asked: wire.ChatRequest, visit: Visit) -> wire.Request:
        adapters = service.engine.adapters.names
        if asked.model not in (name, *adapters):
            there = ", ".join(map(repr, (name, *adapters)))
            raise Refused(f"there is no such model; there is {there}", "model", 404, "model_not_found")
        images = await pictures.load(asked, visit.hold, visit.salt)
        seed = secrets.randbelow(2**31)
        prepared = await run_in_threadpool(wire.to_request, asked, grammars, room, seed, images, visit.salt)
        return replace(prepared, degeneration=watch, adapter="" if asked.model == name else asked.model)

    async def answered(asked: wire.ChatRequest, visit: Visit) -> Response:
        prepared = await prepare(asked, visit)
        asked.messages.clear()  # the pictures' URLs are as large as the body
        answer = Answer(service, asked, prepared)
        if not asked.stream:
            return JSONResponse(await answer.whole())
        stream = answer.stream()
        first = await anext(stream)  # what can be refused is refused before the stream begins
        return Events(first, stream)

    app.include_router(router(Door(service, gate, prepare), limits))

    without_route(app)
    return app
