"""An engine in a thread of its own, asked by many at once from an event loop.

Only that thread computes and changes what the engine holds; conversations are read (tokens, hashes of pictures) in
others, so that a long one holds up nobody. A fault of one request is that request's; a fault of a step ends those under
way, and the next ones are answered.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from open4ov.engine.disaggregated.decode import Decode, Shipment
from open4ov.engine.generate import Engine
from open4ov.engine.metrics import Metrics
from open4ov.engine.request import Completion, Request
from open4ov.engine.sequence import Prompt, Sequence
from open4ov.engine.stage_error import StageError
from open4ov.errors import UserError
from open4ov.model import Encoded

log = logging.getLogger(__name__)
T = TypeVar("T")


class Busy(Exception):
    """As many requests as may wait are waiting already."""


class Failed(Exception):
    """The engine could not answer, through no fault of the request."""


@dataclass(frozen=True)
class Update:
    """What one step brought to completion `index`: all its tokens so far, and the whole answer once it is finished.
    `found_tokens` of the prompt's had been computed before."""

    index: int
    token_ids: list[int]
    prompt_tokens: int
    completion: Completion | None
    found_tokens: int = 0
    log_probs: list[float] = field(default_factory=list)
    top_log_probs: list[list[tuple[int, float]]] = field(default_factory=list)
    """As a completion has them, of the tokens so far"""
    number: int = -1
    """The request's, where it is computed ahead (see `Service.holds`)"""


class _Call:
    """One request under way: where its updates go. Of each completion only the last is kept, as it holds the ones
    before it: a client that reads slowly costs no more than one that does not."""

    def __init__(self, request: Request, document: Encoded | None = None) -> None:
        self.request, self.document = request, document
        self.loop = asyncio.get_running_loop()
        self._updates: dict[int, Update] = {}
        self._fault: Exception | None = None
        self._news = asyncio.Event()
        self.number: int | None = None
        self.prompt: Prompt | None = None
        self.shipment: Shipment | None = None
        self.left = request.n
        self.given_up = False
        self.began, self.first = time.monotonic(), True

    def tell(self, update: Update | Exception) -> None:
        try:
            self.loop.call_soon_threadsafe(self._put, update)
        except RuntimeError:  # the event loop is gone, and whoever waited with it
            self.given_up = True

    async def told(self) -> list[Update]:
        """What is new, at least one. Raises what was told as a fault."""
        await self._news.wait()
        self._news.clear()
        if self._fault is not None:
            raise self._fault
        updates, self._updates = list(self._updates.values()), {}
        return updates

    def _put(self, update: Update | Exception) -> None:
        if isinstance(update, Exception):
            self._fault = update
        else:
            self._updates[update.index] = update
        self._news.set()


class Service:
    """`queue_limit`: requests that may be under way or wait together; more raise Busy. `decode`: has pictures
    encoded and prompts computed by other stages."""

    def __init__(self, engine: Engine, queue_limit: int = 128, decode: Decode | None = None) -> None:
        self.engine, self.queue_limit, self.decode = engine, queue_limit, decode
        self.metrics = Metrics()
        self._calls: dict[int, _Call] = {}
        self._inbox: deque[_Call] = deque()
        self._changes: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._open = 0
        self._wake = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def holds(self, number: int) -> bool:
        """Whether what was computed ahead for a request is held still; others may have needed its blocks."""
        return number in self.engine.scheduler.held

    async def change(self, what: Callable[[], T]) -> T:
        """What `what` gives, called in the engine's thread between two steps; all that is under way is given up first
        (Failed). Raises what it raises, and Failed where the thread has ended."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._wake:
            if self._stopped:
                raise Failed
            self._changes.append((what, done))
            self._wake.notify()
        return await done

    async def submit(self, request: Request, document: Encoded | None = None) -> AsyncGenerator[Update]:
        """The request's updates as they come, until all its completions are finished. Leaving early gives it up.
        `document`: its conversation where it was read already (`Engine.prompt`); without stages only.

        One computed ahead has a single update, when that is done. It is held until the generator is closed, and has no
        place in the queue any more.

        Raises Busy, UserError for a request that cannot be answered, StageError where a stage is needed, and Failed.
        """
        if self._open >= self.queue_limit or self._stopped:
            self.metrics.refused += 1
            raise Busy
        call, left = _Call(request, document), request.n
        self._open += 1
        queued = True
        try:
            await self._read(call)
            self._send(call)
            while left:
                updates = await call.told()
                self._begun(call)
                for update in updates:
                    left -= update.completion is not None
                    if request.ahead:
                        self._open -= 1
                        queued = False
                    yield update
        finally:
            self._open -= queued
            if left:
                call.given_up = True
                self._send(call)
            self._begun(call)
            if self.decode is not None:
                self.decode.look()

    async def _read(self, call: _Call) -> None:
        """Reads the conversation, and asks the stages where there are any."""
        try:
            if self.decode is not None:
                call.shipment = await self.decode.gather(call.request)
            else:
                call.prompt = await asyncio.to_thread(self.engine.prompt, call.request, call.document)
        except (UserError, ValueError, StageError):
            raise
        except Exception:
            log.exception("a request could not be read")
            raise Failed from None

    def stop(self) -> None:
        """Ends the thread; what is under way fails."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join()

    def _begun(self, call: _Call) -> None:
        """What was gathered for it has been used, or will not be."""
        if self.decode is not None and call.shipment is not None:
            self.decode.leave(call.shipment)
            call.shipment = None

    def _send(self, call: _Call) -> None:
        with self._wake:
            if self._stopped:
                call.tell(Failed())
                return
            self._inbox.append(call)
            self._wake.notify()

    def _work(self) -> None:
        with ExitStack() as precision:
            self._turns(precision)
        self._fail_all()
        for call in self._inbox:  # nobody adds to it any more
            call.tell(Failed())
        for _, done in self._changes:
            _settle(done, None, Failed())

    def _turns(self, precision: ExitStack) -> None:
        """Works until it is stopped. `precision` is entered while there is anything to do: autocast then casts each
        weight once, not in every step."""
        within = False
        while True:
            if within and not self.engine.busy:
                precision.close()
                within = False
            with self._wake:
                while not (self._inbox or self._changes or self.engine.busy or self._stopped):
                    self._wake.wait()
                if self._stopped:
                    break
                arrived, changes = list(self._inbox), list(self._changes)
                self._inbox.clear()
                self._changes.clear()
            for call in arrived:
                self._receive(call)
            if within and changes:
                precision.close()
                within = False
            for what, done in changes:
                self._change(what, done)
            if self.engine.busy:
                if not within:
                    precision.enter_context(self.engine.precision())
                    within = True
                self._step()

    def _change(self, what: Callable[[], Any], done: asyncio.Future[Any]) -> None:
        self._fail_all()
        try:
            found = what()
        except Exception as error:
            _settle(done, None, error)
        else:
            _settle(done, found, None)

    def _receive(self, call: _Call) -> None:
        """Begins a request, or ends one that was given up."""
        try:
            if call.given_up:
                if call.number is not None and self._calls.pop(call.number, None):
                    self.engine.abort(call.number)
                    self.metrics.aborted += not call.request.ahead
                return
            if call.shipment is not None and self.decode is not None:
                call.number = self.decode.begin(call.shipment)
            else:
                assert call.prompt is not None
                call.number = self.engine.begin(call.prompt)
            self._calls[call.number] = call
        except (UserError, ValueError, StageError) as error:
            call.tell(error)
        except Exception:
            log.exception("a request could not be begun or ended")
            call.tell(Failed())

    def _step(self) -> None:
        try:
            for one in self.engine.step():
                self._report(one)
        except Exception:
            log.exception("a step failed; what was under way is given up")
            self._fail_all()

    def _report(self, one: Sequence) -> None:
        call = self._calls.get(one.number)
        prompt, found = len(one.prompt.token_ids), one.found or 0
        if one.ahead:
            if call is not None:
                call.tell(Update(one.index, [], prompt, None, found, number=one.number))
            return
        self.metrics.generated_tokens += 1
        if call is None:
            return
        if call.first:
            call.first = False
            self.metrics.prompt_tokens += prompt
            self.metrics.time_to_first_token.add(time.monotonic() - call.began)
        completion = self.engine.completion(one) if one.finish_reason is not None else None
        if completion is not None:
            self.metrics.finished[completion.finish_reason] += 1
            self.metrics.request_seconds.add(time.monotonic() - call.began)
        call.tell(Update(one.index, one.sampled, prompt, completion, found, one.log_probs[:], one.top[:]))
        call.left -= completion is not None
        if not call.left:
            del self._calls[one.number]

    def _fail_all(self) -> None:
        """Gives up all that is under way; what has not begun is not touched."""
        for number, call in self._calls.items():
            try:
                self.engine.abort(number)
            except Exception:
                log.exception("giving up a request failed")
            call.tell(Failed())
        self._calls.clear()


def _settle(future: asyncio.Future[Any], found: Any, error: Exception | None) -> None:
    """From another thread; nobody may wait for it any more."""

    def put() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(found)
        else:
            future.set_exception(error)

    with suppress(RuntimeError):  # the event loop is gone
        future.get_loop().call_soon_threadsafe(put)
