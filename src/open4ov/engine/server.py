"""The HTTP server: OpenAI's chat completions over an engine, closed by default.

Every route but `/health` wants a key where keys are set; without keys only this machine can connect. Bodies, pictures,
texts and numbers have limits, a queue that is full says so (503), and errors have fixed words.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import ValidationError

from open4ov.engine import chat as wire
from open4ov.engine.router_gate import Gate
from open4ov.engine.service import Busy, Failed, Service
from open4ov.engine.text import TextStream
from open4ov.errors import UserError

MAX_BODY = 32 * 2**20
"""Bytes of a request's body"""


def create_app(service: Service, name: str, keys: Sequence[str] = ()) -> FastAPI:
    """The application. `name`: what the model is called; `keys`: those that are let in (none: everybody)."""
    app = FastAPI(title="open4ov", docs_url=None, redoc_url=None, openapi_url=None)
    room = service.engine.longest

    app.add_middleware(Gate, keys=keys)  # pyright: ignore[reportArgumentType]

    @app.get("/health")
    async def health() -> Response:
        return PlainTextResponse("ok\n") if service.alive else PlainTextResponse("the engine has stopped\n", 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.text(service.engine), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> Response:
        model = {"id": name, "object": "model", "created": 0, "owned_by": "open4ov", "max_model_len": room}
        return JSONResponse({"object": "list", "data": [model]})

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        try:
            asked = wire.ChatRequest.model_validate_json(await _body(request))
            if asked.model != name:
                return _error(404, f"no model is called {asked.model!r}; there is {name!r}", "model_not_found", "model")
            seed = secrets.randbelow(2**31)
            prepared = await run_in_threadpool(wire.to_request, asked, service.engine.processor, room, seed)
        except ValidationError as error:
            return _invalid(error)
        except wire.Refused as error:
            return _error(error.status, error.message, "invalid_request_error", error.param)
        answer = _Answer(service, name, asked, prepared)
        try:
            if not asked.stream:
                return JSONResponse(await answer.whole(request))
            stream = answer.stream()
            first = await anext(stream)  # what can be refused is refused before the stream begins
        except Busy:
            busy = _error(503, "too many requests wait; try again", "server_overloaded")
            busy.headers["retry-after"] = "1"
            return busy
        except UserError as error:
            return _error(400, str(error), "invalid_request_error")
        except Failed:
            return _error(500, "the engine made an error", "internal_error")
        return StreamingResponse(_chained(first, stream), media_type="text/event-stream")

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

    async def whole(self, request: Request) -> dict[str, Any]:
        choices: dict[int, dict[str, Any]] = {}
        prompt = given = 0
        updates = self.service.submit(self.prepared)
        try:
            async for update in updates:
                prompt = update.prompt_tokens
                if await request.is_disconnected():
                    break
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


async def _chained(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
    try:
        yield first
        async for event in rest:
            yield event
    except Failed:
        yield _sse({"error": _fault("the engine made an error", "internal_error")})
    finally:
        await rest.aclose()


async def _body(request: Request) -> bytes:
    """The request's body, read no further than the limit."""
    stated = request.headers.get("content-length", "0")
    parts, size = list[bytes](), 0
    if not stated.isdigit() or int(stated) > MAX_BODY:
        raise wire.Refused(f"a body may have at most {MAX_BODY} bytes", status=413)
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise wire.Refused(f"a body may have at most {MAX_BODY} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


def _invalid(error: ValidationError) -> JSONResponse:
    """The first fault of a body that does not fit, by place; never what the client sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = "unknown option" if first["type"] == "extra_forbidden" else first["msg"]
    said = f"{place}: {message}" if place else f"the body: {message}"
    return _error(400, said, "invalid_request_error", place or None)


def _fault(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    kind = "server_error" if code in ("internal_error", "server_overloaded") else "invalid_request_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def _error(status: int, message: str, code: str, param: str | None = None) -> JSONResponse:
    return JSONResponse({"error": _fault(message, code, param)}, status)


def _usage(prompt: int, given: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": given, "total_tokens": prompt + given}


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
