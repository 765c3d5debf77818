"""The provider of our own engine: a Qwen3-VL from a folder (or a shipped one) answers in this process.

Questions asked at the same time are answered together. The answer is bound to the schema while it is sampled, so it
needs no repair. Over HTTP the same engine is an `openai` provider: `open4ov serve`.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from pydantic import ValidationError

from open4ov import engine
from open4ov.assets import base_dir
from open4ov.engine.degeneration import Degeneration
from open4ov.engine.grammar import Grammars
from open4ov.engine.loaded import loaded
from open4ov.engine.service import Busy, Failed, Service
from open4ov.errors import UserError
from open4ov.mllm.ask import Answered, AnswerError, ProviderError, Request
from open4ov.mllm.took import Took
from open4ov.recipe import ProviderSection
from open4ov.sample import user

MAX_TOKENS = 2048
"""Longest answer"""


class EngineProvider:
    """Raises `ProviderError` when built without a model that can be read."""

    def __init__(self, settings: ProviderSection, where: str) -> None:
        if not settings.model:
            raise ProviderError(f"{where}.model: an engine provider needs a model's folder, or a shipped model's name")
        try:
            folder = base_dir(settings.model)
            self._engine = loaded(folder, max_batch=settings.concurrency)
        except UserError as error:
            raise ProviderError(f"{where}: {error}") from None
        self.concurrency = settings.concurrency
        self._name, self._where = settings.model, where
        self._grammars = Grammars(self._engine.processor, self._engine.model.config.text.vocab_size)
        self._service = Service(self._engine, queue_limit=settings.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine provider", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends its threads, so that the model goes with it, from a GPU too. What is under way fails."""
        self._service.stop()
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
        self._loop.stop()

    def identity(self, role: str) -> str:
        return self._name

    def answer(self, request: Request) -> dict[str, Any]:
        where = f"{self._where}, {request.role}"
        if not self._thread.is_alive():
            raise ProviderError(f"{where}: asked after it was closed")
        images = [picture.image for picture in request.images]
        messages = [user(request.prompt.text, images=len(images))]
        try:
            grammar = self._grammars.json_schema(request.schema.model_json_schema())
            prompt = len(self._engine.processor.encode(messages, images, generate=True, pixels=False))
            room = self._engine.longest - prompt
            if room < 1:
                raise AnswerError(f"{where}: a prompt of {prompt} tokens is longer than the model's {prompt + room}")
            asked = engine.Request(
                messages, images, min(MAX_TOKENS, room), grammar=grammar, degeneration=Degeneration()
            )
            found = asyncio.run_coroutine_threadsafe(self._complete(asked), self._loop).result()
        except (Busy, Failed):
            raise ProviderError(f"{where}: the engine could not answer; its log says why") from None
        except AnswerError:
            raise
        except UserError as error:
            raise AnswerError(f"{where}: {error}") from None
        took = Took(prompt, len(found.token_ids))
        if found.finish_reason != "stop":
            raise AnswerError(f"{where}: the answer came to no end ({found.finish_reason})", took=took)
        try:
            return Answered(request.schema.model_validate_json(found.text).model_dump(), took)
        except ValidationError as error:  # what a schema cannot say, a validator may
            detail = error.errors(include_url=False, include_input=False)[0]
            raise AnswerError(f"{where}: the answer does not fit: {detail['msg']}", took=took) from None

    async def _complete(self, asked: engine.Request) -> engine.Completion:
        completion = None
        async for update in self._service.submit(asked):
            completion = update.completion
        assert completion is not None
        return completion
