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
import os
import sqlite3
import threading
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from open4ov.mllm import reply, tokens
from open4ov.mllm.ask import Answered, AnswerError, ProviderError, Request, version
from open4ov.mllm.budget import Usage
from open4ov.mllm.cache import Kept
from open4ov.mllm.concurrency import Outcome, backoff
from open4ov.mllm.desk import Desk
from open4ov.mllm.failure import Failure, failure
from open4ov.mllm.local import DEFAULT_URL
from open4ov.mllm.pause import SHORTEST
from open4ov.mllm.question import known_as, longest
from open4ov.mllm.showing import Showing
from open4ov.mllm.transport import Transport
from open4ov.recipe import ProviderSection

PATIENCE = 50
"""How often a question may meet a 429"""
IN_A_ROW = 8
"""Questions given up one after the other, with no answer between, that mean the endpoint itself does not work"""


@dataclass(frozen=True)
class _Question:
    request: Request
    text: str
    schema: reply.Schema
    key: bytes


class OpenAIProvider:
    """Raises `ProviderError` when built without a model or a key, and when the endpoint refuses to serve."""

    def __init__(self, settings: ProviderSection, where: str, desk: Desk | None = None) -> None:
        if not settings.model:
            raise ProviderError(f"{where}.model: an openai provider needs a model name")
        self._desk = desk or Desk()
        self._url = settings.base_url or DEFAULT_URL
        if self._desk.local is not None:
            self._desk.local.check(self._url, f"{where}.base_url")
        self._secret = os.environ.get(settings.api_key_env)
        if not self._secret:
            raise ProviderError(
                f"{where}.api_key_env: the environment variable {settings.api_key_env} is not set; set it to the "
                "endpoint's key (any word for an endpoint without keys)"
            )
        self.concurrency = settings.concurrency
        # More threads than may be open: one is ready to be sent where another has come, or was refused and has to wait.
        self.threads = settings.concurrency + min(settings.concurrency, 64)
        self._settings, self._model, self._name = settings, settings.model, where.rpartition(".")[2]
        self._where = f"{where} ({settings.base_url or 'api.openai.com'})"
        self._showing = Showing(settings)
        self._gate = self._desk.gate(self._url, settings.concurrency)
        self._given_up, self._lock = 0, threading.Lock()
        transport = Transport(self._url, settings.timeout, self._desk.local, f"{where}.base_url")
        self._client = openai.OpenAI(
            api_key=self._secret,
            base_url=self._url,
            max_retries=0,
            timeout=httpx2.Timeout(settings.timeout, connect=min(10.0, settings.timeout)),
            default_headers={"Accept-Encoding": "identity"},
            http_client=httpx2.Client(transport=transport, follow_redirects=False, trust_env=False),
        )

    def identity(self, role: str) -> str:
        return self._model

    def answer(self, request: Request) -> Answered:
        question = self._question(request)
        found = self._kept(question)
        if found is None:
            try:
                found = self._ask(question)
            except AnswerError as error:
                self._desk.tally.fault(request.role, error.kind)
                raise
            except Exception as error:
                ended = self._ended(error)
                if ended is not error:
                    raise ended from error
                raise
        return found

    def _ended(self, error: Exception) -> Exception:
        """After a full disk or a fault of ours, whoever waits must not wait for ever. Gives what to raise."""
        if isinstance(error, sqlite3.Error):
            error = ProviderError(
                f"{self._where}: what is asked and spent cannot be written ({error}). All answers before are kept: "
                "make room, and the same command goes on from here"
            )
        self._gate.close(error)
        self._desk.budget.end(error)
        return error

    def _question(self, request: Request) -> _Question:
        text = request.prompt.text
        return _Question(request, text, reply.schema(request.schema), known_as(request, text, self._settings))

    def _kept(self, question: _Question) -> Answered | None:
        kept = self._desk.cache.get(question.key) if self._desk.cache else None
        if kept is None:
            return None
        try:
            answer = reply.fit(kept.answer, question.request)
        except reply.Misfit:  # kept by a version that found nothing wrong with it
            return None
        usage = Usage(kept.input, kept.output, int(kept.estimated))
        self._desk.tally.answered(question.request.role, usage, self._settings.price, kept=True)
        return Answered(answer)

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
            completion, took = self._send(question, messages, said, images, repair)
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
            return Answered(answer)
        where = f"{self._where}, {request.role}"
        if fault.repair:
            raise AnswerError(f"{where}: no answer that fits the schema, even when asked again: {fault.reason}",
                              fault.kind)  # fmt: skip
        raise AnswerError(f"{where}: {fault.reason}", fault.kind)

    def _send(
        self, question: _Question, messages: list[Any], said: str, images: int, repair: bool
    ) -> tuple[Any, Usage]:
        """One reply, after as many tries as the recipe allows."""
        role, budget, price = question.request.role, self._desk.budget, self._settings.price
        framing = tokens.MESSAGE * (len(messages) + 1) + images
        most = Usage(tokens.bound(said) + framing, self._settings.max_tokens)
        tries = limited = 0
        while True:
            turn = self._gate.enter()
            took, failed = Usage(), None
            outcome: Outcome = "failed"  # what the gate is told when even the book cannot be written
            pause = 0.0
            try:
                reserved = budget.reserve(role, self._name, most, price)
                self._desk.tally.sent(role, repair and not tries)
                try:
                    completion = self._create(question, messages)
                    took = reply.usage(completion) or Usage(tokens.guess(said) + framing, _guess(completion), 1)
                    outcome = "good"
                except Exception as error:
                    failed = failure(error, self._secret or "")
                    if failed is None:
                        raise
                    outcome, pause = failed.outcome, failed.pause
                    if failed.charged:
                        took = Usage(tokens.guess(said) + framing, most.output if failed.unseen else 0, 1)
                        self._desk.tally.unseen(role, took)
                except BaseException:  # stopped while it was under way: it may be charged in full
                    took = Usage(most.input, most.output, 1)
                    raise
                finally:
                    budget.settle(reserved, took)
            except ProviderError as error:  # of the budget: before the next in line is let in
                self._gate.close(error)
                raise
            finally:
                self._gate.leave(turn, outcome, pause)
            if failed is None:
                with self._lock:
                    self._given_up = 0
                return completion, took  # pyright: ignore[reportPossiblyUnboundVariable]
            limited += failed.outcome == "limited"
            tries += failed.outcome != "limited"
            self._stop_or_go_on(failed, role, tries, limited)
            self._desk.tally.retried(role, failed.kind)
            limit = failed.outcome == "limited"  # then no sooner than the endpoint says, whoever else may go on
            self._gate.sleep(max(failed.pause, SHORTEST) if limit else backoff(tries - 1))

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

    def _stop_or_go_on(self, failed: Failure, role: str, tries: int, limited: int) -> None:
        """Returns when the question may be tried again. Raises AnswerError for this one, ProviderError for all."""
        if failed.again and tries <= self._settings.retries and limited <= PATIENCE and not failed.everyone:
            return
        message = f"{self._where}, {role}: {failed.reason}"
        if tries > 1:
            message += f" (tried {tries} times)"
        with self._lock:
            self._given_up += 1
            row = self._given_up
        if failed.everyone or failed.kind == "unreachable":
            error = ProviderError(message)
        elif row >= IN_A_ROW:
            error = ProviderError(f"{message}; {row} questions in a row ended like this, so none of the others is sent")
        else:
            raise AnswerError(message, failed.kind)
        self._desk.tally.fault(role, failed.kind)
        self._gate.close(error)
        raise error


def _guess(completion: Any) -> int:
    try:
        return tokens.guess(completion["choices"][0]["message"]["content"] or "")
    except (AttributeError, IndexError, TypeError, KeyError):
        return 0
