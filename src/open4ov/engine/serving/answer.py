"""Answers on their way out, whole or in pieces, and what is said of those that do not come."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from open4ov.engine.request import Completion
from open4ov.engine.service import Busy, Failed, Service
from open4ov.engine.serving import chat as wire
from open4ov.engine.serving.faults import Refused
from open4ov.engine.serving.faults import error as _error
from open4ov.engine.serving.gate import Ending, TooMany
from open4ov.engine.serving.room import Full, TooMuch
from open4ov.engine.stage_error import StageError
from open4ov.engine.text import TextStream
from open4ov.errors import UserError

CHUNK = "chat.completion.chunk"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What may stand in the place of a fault: a client's own keys may be anything"""


class Answer:
    """One chat completion on its way out."""

    def __init__(self, service: Service, asked: wire.ChatRequest, prepared: wire.Request) -> None:
        self.service, self.asked, self.prepared = service, asked, prepared
        self.processor = service.engine.processor
        self.base = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        self.completions: dict[int, Completion] = {}
        self.found = 0
        """Tokens of the prompt that had been computed before"""

    async def whole(self) -> dict[str, Any]:
        choices: dict[int, dict[str, Any]] = {}
        prompt = given = 0
        updates = self.service.submit(self.prepared)
        try:
            async for update in updates:
                prompt = update.prompt_tokens
                self.found = update.found_tokens if update.index == 0 else self.found
                if (done := update.completion) is None:
                    continue
                given += len(done.token_ids)
                self.completions[update.index] = done
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
        return {
            **self.base,
            "object": "chat.completion",
            "choices": ordered,
            "usage": _usage(prompt, given, self.found),
        }

    async def stream(self) -> AsyncGenerator[str]:
        """Server-sent events; the last is [DONE]. Log-probabilities come with the text of their tokens."""
        texts = [TextStream(self.processor.decode, self.prepared.stop) for _ in range(self.prepared.n)]
        known = [0] * self.prepared.n
        """Tokens of each choice whose log-probabilities have been given"""
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
                self.found = update.found_tokens if update.index == 0 else self.found
                piece = texts[update.index].push(update.token_ids, last=done is not None)
                told = None
                if done is not None:
                    given += len(done.token_ids)
                    self.completions[update.index] = done
                if self.asked.logprobs and (piece or done is not None):
                    ids, start = update.token_ids, known[update.index]
                    end = known[update.index] = len(ids) if done is not None else texts[update.index].shown(ids)
                    told = wire.log_probs(self.processor, update, self.asked.top_logprobs, start, end)
                if piece or done is not None:
                    delta = {"content": piece} if piece else {}
                    yield self._event(update.index, delta, done.finish_reason if done else None, told, usage)
            if usage:
                yield _sse({**self.base, "object": CHUNK, "choices": [], "usage": _usage(prompt, given, self.found)})
            yield "data: [DONE]\n\n"
        finally:
            await updates.aclose()

    def _event(
        self, index: int, delta: dict[str, Any], reason: str | None, told: dict[str, Any] | None, usage: bool
    ) -> str:
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}
        return _sse({**self.base, "object": CHUNK, "choices": [choice], **({"usage": None} if usage else {})})


class Events(StreamingResponse):
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
        except Exception as error:
            yield _sse(json.loads(bytes(told(error).body)))


async def while_there(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
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


def told(error: Exception) -> Response:
    """What is said of an exception that was foreseen; others are raised again."""
    match error:
        case ClientDisconnect():
            return Response(status_code=499)  # nobody reads it
        case ValidationError():
            return _invalid(error)
        case Refused():
            return _error(
                error.status, error.message, error.code, error.param, retry=1 if error.status in (429, 503) else None
            )
        case Busy() | Full():
            return _error(503, "too many requests wait; try again", "server_overloaded", retry=1)
        case Ending():
            return _error(503, "the server is ending; ask another", "server_ending", retry=5)
        case TooMany():
            return _error(429, "too many requests of this key are under way", "rate_limited", retry=1)
        case TooMuch():
            said = "the requests of this key under way hold too much; try again when they are over"
            return _error(429, said, "rate_limited", retry=1)
        case StageError():
            said = "a stage that this answer needs does not answer; try again"
            return _error(503, said, "stage_unavailable", retry=1)
        case UserError():
            return _error(400, str(error), "invalid_request_error")
        case Failed():
            return _error(500, "the engine made an error", "internal_error")
        case _:
            raise error


def _invalid(error: ValidationError) -> JSONResponse:
    """The first fault of a body that does not fit, by place; never what the client sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(part if _NAME.fullmatch(part := str(step)) else "?" for step in first["loc"])
    message = "unknown option" if first["type"] == "extra_forbidden" else first["msg"]
    said = f"{place}: {message}" if place else f"the body: {message}"
    return _error(400, said, "invalid_request_error", place or None)


def _usage(prompt: int, given: int, found: int) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": given, "total_tokens": prompt + given}
    return {**counts, "prompt_tokens_details": {"cached_tokens": found}}


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, allow_nan=False)}\n\n"
