"""The way to an endpoint: its client and key, whose turn it is, how often a request is tried, and what that took.

What a request asks and what its reply means is the caller's (`openai.py`: chat completions; `embedder_endpoint.py`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

import httpx2
import openai

from open4ov.mllm.ask import AnswerError, ProviderError
from open4ov.mllm.budget import Usage
from open4ov.mllm.concurrency import Outcome, backoff
from open4ov.mllm.desk import Desk
from open4ov.mllm.failure import Failure, failure
from open4ov.mllm.local import DEFAULT_URL
from open4ov.mllm.pause import SHORTEST
from open4ov.mllm.ready import key_of
from open4ov.mllm.transport import Transport
from open4ov.recipe import ProviderSection

Reply = TypeVar("Reply")
PATIENCE = 50
"""How often a question may meet a 429"""
IN_A_ROW = 8
"""Questions given up one after the other, with no answer between, that mean the endpoint itself does not work"""


class Line:
    """The way to one endpoint, for any kind of request: its client and key, its gate, tries and costs.

    Raises `ProviderError` when built without a model or a key, and when the endpoint refuses to serve.
    """

    def __init__(self, settings: ProviderSection, where: str, desk: Desk | None = None) -> None:
        if not settings.model:
            raise ProviderError(f"{where}.model: an openai provider needs a model name")
        self._desk = desk or Desk()
        self._url = settings.base_url or DEFAULT_URL
        if self._desk.local is not None:
            self._desk.local.check(self._url, f"{where}.base_url")
        self._secret = key_of(settings.api_key_env, where)
        self.concurrency = settings.concurrency
        # More threads than may be open: one is ready to be sent where another has come, or was refused and has to wait.
        self.threads = settings.concurrency + min(settings.concurrency, 64)
        self._settings, self._model, self._name = settings, settings.model, where.rpartition(".")[2]
        self._where = f"{where} ({settings.base_url or 'api.openai.com'})"
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

    def send(
        self, role: str, most: Usage, create: Callable[[], tuple[Reply, Usage]], charged: Usage, *, repair: bool = False
    ) -> tuple[Reply, Usage]:
        """One reply and what it took, after as many tries as the recipe allows.

        `create` sends the request; it can take `most`, and counts as `charged` where it failed and may have been
        charged all the same. Raises `AnswerError` for this question, `ProviderError` for all.
        """
        budget, price = self._desk.budget, self._settings.price
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
                    found, took = create()
                    outcome = "good"
                except Exception as error:
                    failed = failure(error, self._secret or "")
                    if failed is None:
                        raise
                    outcome, pause = failed.outcome, failed.pause
                    if failed.charged:
                        took = Usage(charged.input, most.output if failed.unseen else charged.output, 1)
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
                return found, took  # pyright: ignore[reportPossiblyUnboundVariable, reportReturnType]
            limited += failed.outcome == "limited"
            tries += failed.outcome != "limited"
            self._stop_or_go_on(failed, role, tries, limited)
            self._desk.tally.retried(role, failed.kind)
            limit = failed.outcome == "limited"  # then no sooner than the endpoint says, whoever else may go on
            self._gate.sleep(max(failed.pause, SHORTEST) if limit else backoff(tries - 1))

    def ended(self, error: Exception) -> Exception:
        """After a full disk or a fault of ours, whoever waits must not wait for ever. Gives what to raise."""
        if isinstance(error, sqlite3.Error):
            error = ProviderError(
                f"{self._where}: what is asked and spent cannot be written ({error}). All answers before are kept: "
                "make room, and the same command goes on from here"
            )
        self._gate.close(error)
        self._desk.budget.end(error)
        return error

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
            error = AnswerError(message, failed.kind)
            error.transport = True
            raise error
        self._desk.tally.fault(role, failed.kind)
        self._gate.close(error)
        raise error
