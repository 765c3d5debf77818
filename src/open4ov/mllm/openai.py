"""The real provider: any OpenAI-compatible endpoint (a hosted model, vLLM, ...), through the official client.

Images travel as data URLs (`showing.py`). The answer is asked for as strict JSON schema; one that does not parse or fit
is sent back once with what was wrong. Before a question goes out it is looked up among the kept answers, has a turn at
the endpoint's gate and its share of the budget set aside. The key is read from the environment variable that the recipe
names, and from nowhere else. What goes wrong has a kind (`failure.py`, `reply.py`).

The blocking client in threads, since it takes less of the processor than the asyncio one (`python -m bench.data
--only clients`).
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

from open4ov.mllm import reply, tokens
from open4ov.mllm.ask import Answered, AnswerError, Request, version
from open4ov.mllm.budget import Usage
from open4ov.mllm.cache import Kept
from open4ov.mllm.desk import Desk
from open4ov.mllm.line import Line
from open4ov.mllm.question import known_as, longest
from open4ov.mllm.showing import Showing
from open4ov.mllm.took import Took
from open4ov.recipe import ProviderSection


@dataclass(frozen=True)
class _Question:
    request: Request
    text: str
    schema: reply.Schema
    key: bytes


class OpenAIProvider(Line):
    """Asks with chat completions."""

    def __init__(self, settings: ProviderSection, where: str, desk: Desk | None = None) -> None:
        super().__init__(settings, where, desk)
        self._showing = Showing(settings)
        self._under_way: dict[bytes, threading.Event] = {}

    def identity(self, role: str) -> str:
        return self._model

    def answer(self, request: Request) -> Answered:
        question = self._question(request)
        if self._desk.cache is None:
            return self._fresh(question)
        mine = threading.Event()
        while True:
            with self._lock:  # an equal question may be under way: its answer will do, and is paid for once
                other = self._under_way.setdefault(question.key, mine)
            if other is mine:
                break
            other.wait()
        try:
            found = self._kept(question)
            return self._fresh(question) if found is None else found
        finally:
            with self._lock:
                del self._under_way[question.key]
            mine.set()

    def _fresh(self, question: _Question) -> Answered:
        try:
            return self._ask(question)
        except AnswerError as error:
            self._desk.tally.fault(question.request.role, error.kind)
            raise
        except Exception as error:
            ended = self.ended(error)
            if ended is not error:
                raise ended from error
            raise

    def _question(self, request: Request) -> _Question:
        text = request.prompt.text
        return _Question(request, text, reply.schema(request.schema), known_as(request, text, self._settings))

    def _kept(self, question: _Question) -> Answered | None:
        cache = self._desk.cache
        kept = cache.get(question.key) if cache is not None else None  # its truth would count all its rows
        if kept is None:
            return None
        try:
            answer = reply.fit(kept.answer, question.request)
        except reply.Misfit:  # kept by a version that found nothing wrong with it
            return None
        usage = Usage(kept.input, kept.output, int(kept.estimated))
        self._desk.tally.answered(question.request.role, usage, self._settings.price, kept=True)
        return Answered(answer, self._took(usage, question, kept=True))

    def _took(self, usage: Usage, question: _Question | None = None, *, kept: bool = False) -> Took:
        """What an answer took; with its question where it is kept, so that an equal one need not be paid for again."""
        named = question.key.hex() if question and self._desk.cache is not None else ""
        return Took(usage.input, usage.output, usage.estimated > 0, self._settings.price, kept, named)

    def _ask(self, question: _Question) -> Answered:
        request = question.request
        pictures = [self._showing.of(picture) for picture in request.images]
        content: list[Any] = [{"type": "image_url", "image_url": {"url": picture.url}} for picture in pictures]
        content.append({"type": "text", "text": question.text})
        messages: list[Any] = [{"role": "user", "content": content}]
        said = question.text + question.schema.text
        images = sum(tokens.of_image(self._settings.image_tokens, *picture.size) for picture in pictures)
        usage, fault = Usage(), reply.Misfit("empty", "")
        for repair in (False, True):
            try:
                completion, took = self._send(question, messages, said, images, repair)
            except AnswerError as error:
                error.took = self._took(usage) if repair else None
                raise
            usage += took
            try:
                text = reply.text(completion, self._secret or "")
                answer = reply.fit(text, request)
            except reply.Misfit as misfit:
                fault = misfit
                if not misfit.repair:
                    break
                if misfit.text:
                    complaint = f"That does not fit the schema ({misfit.reason}). Answer again with the JSON only."
                    messages.append({"role": "assistant", "content": misfit.text})
                    messages.append({"role": "user", "content": complaint})
                    said += misfit.text + complaint
                continue
            if self._desk.cache is not None:
                kept = Kept(text, usage.input, usage.output, usage.estimated > 0)
                self._desk.cache.put(question.key, kept, self._model, version(request.prompt.template))
            self._desk.tally.answered(request.role, usage, self._settings.price, kept=False)
            return Answered(answer, self._took(usage, question))
        where = f"{self._where}, {request.role}"
        if fault.repair:
            raise AnswerError(f"{where}: no answer that fits the schema, even when asked again: {fault.reason}",
                              fault.kind, self._took(usage))  # fmt: skip
        raise AnswerError(f"{where}: {fault.reason}", fault.kind, self._took(usage))

    def _send(
        self, question: _Question, messages: list[Any], said: str, images: int, repair: bool
    ) -> tuple[Any, Usage]:
        framing = tokens.MESSAGE * (len(messages) + 1) + images
        most = Usage(tokens.bound(said) + framing, self._settings.max_tokens)
        charged = Usage(tokens.guess(said) + framing, 0, 1)

        def create() -> tuple[Any, Usage]:
            completion = self._create(question, messages)
            return completion, reply.usage(completion) or Usage(charged.input, _guess(completion), 1)

        return self.send(question.request.role, most, create, charged, repair=repair)

    def _create(self, question: _Question, messages: list[Any]) -> Any:
        # `post`, as `chat.completions.create` calls it: that walks through messages and schema by their types first,
        # and builds typed objects of the reply, which takes more of the processor than all that this package adds.
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "response_format": question.schema.response_format,
            **longest(self._settings),
        }
        if self._settings.seed is not None:
            body["seed"] = self._settings.seed
        if self._settings.temperature is not None:
            body["temperature"] = self._settings.temperature
        found = self._client.post("/chat/completions", cast_to=object, body=body)
        return json.loads(found) if isinstance(found, str) else found  # text: the reply does not say that it is JSON


def _guess(completion: Any) -> int:
    try:
        return tokens.guess(completion["choices"][0]["message"]["content"] or "")
    except (AttributeError, IndexError, TypeError, KeyError):
        return 0
