"""The HTTP server: OpenAI's chat completions over an engine, closed by default.

Every route but `/health` wants a key where keys are set; without keys only this machine can connect. Bodies, pictures,
texts and numbers have limits, a queue that is full says so (503), and errors have fixed words.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from open4ov.engine import body
from open4ov.engine import chat as wire
from open4ov.engine.decoder import Decoder
from open4ov.engine.degeneration import Degeneration
from open4ov.engine.faults import error as _error
from open4ov.engine.faults import fault as _fault
from open4ov.engine.fetch import Fetcher
from open4ov.engine.gate import Full, Gate, Guard, Visit
from open4ov.engine.grammar import Grammars
from open4ov.engine.openapi import describe
from open4ov.engine.pictures import Pictures
from open4ov.engine.service import Busy, Failed, Service
from open4ov.engine.stages import StageError
from open4ov.engine.text import TextStream
from open4ov.errors import UserError


def create_app(
    service: Service,
    name: str,
    keys: Sequence[str] = (),
    watch: Degeneration | None = None,
    *,
    max_per_key: int = 0,
    share_cache: bool = False,
    fetcher: Fetcher | None = None,
) -> FastAPI:
    """The application. `name`: what the model is called; `keys`: those that are let in (none: everybody); `watch`: when
    a response is stopped because it has degenerated (None: never); `max_per_key` and `share_cache`: see `Gate`;
    `fetcher`: by which pictures at https URLs are fetched (None: they are not)."""
    gate, pictures = Gate(keys, max_per_key, share_cache), Pictures(Decoder(), fetcher)

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
        return JSONResponse({"object": "list", "data": [model]})

    @app.post("/v1/embeddings")
    async def embeddings() -> Response:
        return _error(400, "this model gives no embeddings", "model_not_supported", "model")

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        visit: Visit = request.state.visit
        try:
            asked = wire.ChatRequest.model_validate_json(await body.read(request, visit))
            return await _while_there(request, answered(asked, visit))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except ValidationError as error:
            return _invalid(error)
        except wire.Refused as error:
            return _error(error.status, error.message, "invalid_request_error", error.param)
        except (Busy, Full):
            return _error(503, "too many requests wait; try again", "server_overloaded", retry=1)
        except UserError as error:
            return _error(400, str(error), "invalid_request_error")
        except StageError:
            return _error(
                503, "a stage that this answer needs does not answer; try again", "stage_unavailable", retry=1
            )
        except Failed:
            return _error(500, "the engine made an error", "internal_error")

    async def answered(asked: wire.ChatRequest, visit: Visit) -> Response:
        if asked.model != name:
            return _error(404, f"there is no such model; there is {name!r}", "model_not_found", "model")
        images = await pictures.load(asked, visit.hold)
        seed = secrets.randbelow(2**31)
        prepared = await run_in_threadpool(wire.to_request, asked, grammars, room, seed, images, visit.salt)
        asked.messages.clear()  # the pictures' URLs are as large as the body
        answer = _Answer(service, name, asked, replace(prepared, degeneration=watch))
        if not asked.stream:
            return JSONResponse(await answer.whole())
        stream = answer.stream()
        first = await anext(stream)  # what can be refused is refused before the stream begins
        return _Events(first, stream)

    @app.exception_handler(404)
    async def unknown(request: Request, _error_: Exception) -> Response:
        return _error(404, "there is no such route", "not_found")

    @app.exception_handler(405)
    async def wrong_method(request: Request, _error_: Exception) -> Response:
        return _error(405, "that method is not served here", "method_not_allowed")

    return app


class _Answer:
    """One chat completion on its way out."""

    def __init__(self, service: Service, name: str, asked: wire.ChatRequest, prepared: wire.Request) -> None:
        self.service, self.asked, self.prepared = service, asked, prepared
        self.processor = service.engine.processor
        self.base = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}

    async def whole(self) -> dict[str, Any]:
        choices: dict[int, dict[str, Any]] = {}
        prompt = given = 0
        updates = self.service.submit(self.prepared)
        try:
            async for update in updates:
                prompt = update.prompt_tokens
                if (done := update.completion) is None:
                    continue
                given += len(done.token_ids)
                told = wire.log_probs(self.processor, done, self.asked.top_logprobs) if self.asked.logprobs else None
                message = {"role": "assistant", "content": done.text, "refusal": None}
                choices[update.index] = {
                    "index": update.index,
                    "message": message,
                    "logprobs": told,
                    "finish_reason": done.finish_reason,
                }
        finally:
            await updates.aclose()
        ordered = [choices[index] for index in sorted(choices)]
        return {**self.base, "object": "chat.completion", "choices": ordered, "usage": _usage(prompt, given)}

    async def stream(self) -> AsyncGenerator[str]:
        """Server-sent events; the last is [DONE]. Log-probabilities come with a choice's last piece."""
        texts = [TextStream(self.processor.decode, self.prepared.stop) for _ in range(self.prepared.n)]
        usage = self.asked.stream_options is not None and self.asked.stream_options.include_usage
        prompt = given = 0
        updates = self.service.submit(self.prepared)
        try:
            begun = False
            async for update in updates:
                if not begun:  # only now is it sure that the request is answered
                    begun = True
                    for index in range(self.prepared.n):
                        yield self._event(index, {"role": "assistant", "content": ""}, None, None, usage)
                done, prompt = update.completion, update.prompt_tokens
                piece = texts[update.index].push(update.token_ids, last=done is not None)
                told = None
                if done is not None:
                    given += len(done.token_ids)
                    if self.asked.logprobs:
                        told = wire.log_probs(self.processor, done, self.asked.top_logprobs)
                if piece or done is not None:
                    delta = {"content": piece} if piece else {}
                    yield self._event(update.index, delta, done.finish_reason if done else None, told, usage)
            if usage:
                yield _sse({**self.base, "object": CHUNK, "choices": [], "usage": _usage(prompt, given)})
            yield "data: [DONE]\n\n"
        finally:
            await updates.aclose()

    def _event(
        self, index: int, delta: dict[str, Any], reason: str | None, told: dict[str, Any] | None, usage: bool
    ) -> str:
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
        return _sse({**self.base, "object": CHUNK, "choices": [choice], **({"usage": None} if usage else {})})


CHUNK = "chat.completion.chunk"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What may stand in the place of a fault: a client's own keys may be anything"""


class _Events(StreamingResponse):
    """Server-sent events of a generator that has given the first; it is closed in any case."""

    def __init__(self, first: str, rest: AsyncGenerator[str]) -> None:
        super().__init__(self._all(first, rest), media_type="text/event-stream")
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._rest.aclose()

    @staticmethod
    async def _all(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
        try:
            yield first
            async for event in rest:
                yield event
        except Failed:
            yield _sse({"error": _fault("the engine made an error", "internal_error")})


async def _while_there(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """What `work` gives; it is given up when the client leaves. The body must have been read."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(work), asyncio.create_task(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return await tasks[0]
        return Response(status_code=499)  # nobody reads it
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _invalid(error: ValidationError) -> JSONResponse:
    """The first fault of a body that does not fit, by place; never what the client sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(part if _NAME.fullmatch(part := str(step)) else "?" for step in first["loc"])
    message = "unknown option" if first["type"] == "extra_forbidden" else first["msg"]
    said = f"{place}: {message}" if place else f"the body: {message}"
    return _error(400, said, "invalid_request_error", place or None)


def _usage(prompt: int, given: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": given, "total_tokens": prompt + given}


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
