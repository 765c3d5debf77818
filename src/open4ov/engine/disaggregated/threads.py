"""Encode and prefill as objects of this process, with a thread each that batches what is asked of them."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from open4ov.engine.disaggregated.fingerprint import of_features, of_keys
from open4ov.engine.disaggregated.stages import (
    EncodePolicy,
    Features,
    Keys,
    PrefillPolicy,
    digest_of,
    grid_of,
    other_weights,
    put_features,
)
from open4ov.engine.generate import Engine
from open4ov.engine.request import Request
from open4ov.engine.sequence import Prompt
from open4ov.engine.stage_error import StageError
from open4ov.engine.vision_cache import VisionCache, salted, visual_hash
from open4ov.model import Processor, Qwen3VL, VisionFeatures
from open4ov.model.processing import Visual

log = logging.getLogger(__name__)


@dataclass
class _Call:
    asked: Any
    fingerprint: str
    since: float
    answer: Future[Any]


class _Thread(ABC):
    """Calls wait in `inbox` until the thread's `work` takes them; whatever goes wrong is told to those who wait."""

    def __init__(self, name: str) -> None:
        self.inbox: deque[_Call] = deque()
        self.wake = threading.Condition()
        self.stopped = False
        self.batches, self.busy = 0, 0.0
        """Rounds in which something was computed, and the seconds that they took"""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @abstractmethod
    def work(self) -> None:
        """One round. `stopped` ends it early."""

    def load(self) -> dict[str, float]:
        """What whoever asks may know: calls that wait, batches so far and the seconds that they took."""
        return {"queue": len(self.inbox), "batches": self.batches, "busy": self.busy}

    def computed(self, since: float) -> None:
        self.batches += 1
        self.busy += time.monotonic() - since

    def abandon(self) -> list[_Call]:
        """Those under way besides the inbox, given up."""
        return []

    def ask(self, calls: Sequence[_Call]) -> list[Any]:
        with self.wake:
            if self.stopped:
                raise StageError("unreachable", "the stage has been stopped")
            self.inbox += calls
            self.wake.notify()
        return [call.answer.result() for call in calls]

    def stop(self) -> None:
        """Ends the thread; what is under way fails."""
        with self.wake:
            self.stopped = True
            self.wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self.stopped:
            try:
                self.work()
            except Exception:
                log.exception("a stage's step failed; what was under way is given up")
                _fail(self.abandon(), StageError("failed", "the stage made an error"))
        _fail([*self.abandon(), *self.inbox], StageError("unreachable", "the stage has been stopped"))


class Encode(_Thread):
    """Pictures to features, over a vision cache that nobody else uses."""

    def __init__(self, cache: VisionCache, policy: EncodePolicy | None = None) -> None:
        self.cache, self.policy = cache, policy or EncodePolicy()
        self.fingerprint = of_features(cache)
        self._under_way: list[_Call] = []
        super().__init__("encode")

    def encode(self, seen: Sequence[Visual], fingerprint: str, salt: str = "") -> Features:
        now, processor = time.monotonic(), self.cache.processor
        asked = [(visual, grid_of(visual, processor), salted(salt, visual_hash(visual))) for visual in seen]
        answers = self.ask([_Call(one, fingerprint, now, Future()) for one in asked])
        return Features([features for features, _ in answers], answers[-1][1] if answers else 0)

    def work(self) -> None:
        with self.wake:
            while not self.inbox and not self.stopped:
                self.wake.wait()
            while len(self.inbox) < self.policy.batch and not self.stopped:
                left = self.inbox[0].since + self.policy.wait - time.monotonic()
                if left <= 0:
                    break
                self.wake.wait(left)
            if self.stopped:
                return
            self._under_way = [self.inbox.popleft() for _ in range(min(len(self.inbox), self.policy.batch))]
        own = self.fingerprint.now()
        for call in self._under_way:
            if call.fingerprint != own:  # nothing is encoded for those
                call.answer.set_exception(other_weights())
        self._under_way = [call for call in self._under_way if call.fingerprint == own]
        if not self._under_way:
            return
        began = time.monotonic()
        seen, grids, names = zip(*(call.asked for call in self._under_way), strict=True)
        found = self.cache.of(grids, seen, names)
        self.computed(began)
        own = self.fingerprint.now()
        for call, features in zip(self.abandon(), found, strict=True):
            if call.fingerprint == own:
                call.answer.set_result((features, len(found)))
            else:
                call.answer.set_exception(other_weights())

    def abandon(self) -> list[_Call]:
        calls, self._under_way = self._under_way, []
        return calls


class Prefill(_Thread):
    """Prompts to keys and values, by an engine of its own that samples nothing of use."""

    def __init__(
        self, model: Qwen3VL, processor: Processor, policy: PrefillPolicy | None = None, **options: Any
    ) -> None:
        """`options`: further ones of the engine (`vision_cache`, `watch`)."""
        self.policy = policy or PrefillPolicy()
        self.engine = Engine(
            model,
            processor,
            self.policy.rows,
            self.policy.kv_tokens,
            self.policy.chunk,
            self.policy.block_size,
            **options,
        )
        if self.engine.autocast is not None:
            raise ValueError("stages exchange what is computed in the weights' own type; load them in it")
        self.fingerprint = of_keys(self.engine)
        self._calls: dict[int, _Call] = {}
        super().__init__("prefill")

    def prefill(self, prompt: Prompt, features: list[VisionFeatures] | None, start: int, fingerprint: str) -> Keys:
        # read anew: nothing that names a block here comes from elsewhere
        given = prompt.request
        own = self.engine.prompt(
            Request(given.messages, given.images, max_tokens=1, salt=given.salt, ahead=given.ahead)
        )
        if digest_of(own) != digest_of(prompt):
            raise StageError("refused", "the prompt reads otherwise here: another tokenizer or other pictures")
        return self.compute(own, features, start, fingerprint)

    def compute(self, prompt: Prompt, features: list[VisionFeatures] | None, start: int, fingerprint: str) -> Keys:
        """`prefill` of a prompt that this stage's engine has read itself."""
        return self.ask([_Call((prompt, features, start), fingerprint, time.monotonic(), Future())])[0]

    def work(self) -> None:
        with self.wake:
            while not (self.inbox or self.engine.busy or self.stopped):
                self.wake.wait()
            arrived = list(self.inbox)
            self.inbox.clear()
        for call in arrived:
            self._receive(call)
        under_way, began = len(self._calls), time.monotonic()
        stepped = self.engine.step() if self.engine.busy else None
        if stepped is not None:
            self.computed(began)
        for one in stepped or []:
            if (call := self._calls.pop(one.number, None)) is not None:
                self._finish(call, one.prompt, under_way)
            if one.ahead:  # it is held where it is needed, not here
                self.engine.abort(one.number)

    def abandon(self) -> list[_Call]:
        calls, self._calls = self._calls, {}
        for number in calls:
            self.engine.abort(number)
        return list(calls.values())

    def _receive(self, call: _Call) -> None:
        prompt, features, _ = call.asked
        try:
            if call.fingerprint != self.fingerprint.now():
                raise other_weights()
            if features is not None:
                put_features(self.engine.vision_cache, prompt, features)
            self._calls[self.engine.begin(prompt)] = call
        except StageError as error:
            call.answer.set_exception(error)
        except ValueError as error:
            call.answer.set_exception(StageError("refused", str(error)))

    def _finish(self, call: _Call, prompt: Prompt, under_way: int) -> None:
        if call.fingerprint != self.fingerprint.now():
            call.answer.set_exception(other_weights())
            return
        found = self.engine.handover.give(prompt, call.asked[2])
        if found is None:  # they were just computed; only new weights take them away
            call.answer.set_exception(StageError("failed", "keys and values were gone at once"))
        else:
            call.answer.set_result(Keys(*found, under_way))


def _fail(calls: Sequence[_Call], error: StageError) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(error)
