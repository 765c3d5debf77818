"""The decode stage: an engine that has pictures encoded and prompts computed elsewhere before it begins with a request.

Nothing is asked of a stage in the engine's thread. A request waits for its features, keys and values beforehand, and no
more wait with them than there is room for: what is taken over too early is dropped again before its turn comes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from open4ov.engine.disaggregated.fingerprint import of_features, of_keys
from open4ov.engine.disaggregated.metrics import StageMetrics
from open4ov.engine.disaggregated.stages import (
    Encoder,
    Keys,
    Prefiller,
    grids_of,
    other_weights,
    put_features,
    visuals_of,
)
from open4ov.engine.generate import Engine
from open4ov.engine.request import Request
from open4ov.engine.sequence import Prompt
from open4ov.engine.stage_error import StageError
from open4ov.model import VisionFeatures


@dataclass(frozen=True)
class DecodePolicy:
    """`fallback`: what a stage does not give is computed here, and counted; else the request fails. `least`: fewer
    tokens of a prompt than that are computed here in any case. `waiting`: requests that may ask stages at a time."""

    fallback: bool = True
    least: int = 32
    waiting: int = 64


@dataclass
class Shipment:
    """A prompt, and what the stages gave for it."""

    prompt: Prompt
    start: int = 0
    features: list[VisionFeatures] | None = None
    features_of: str = ""
    keys: Keys | None = None
    keys_of: str = ""
    """Fingerprints of the weights that they were asked for"""


class Decode:
    """`engine`, and who encodes and prefills for it (None: the engine itself). Raises ValueError for an engine that
    computes in another type than its weights'."""

    def __init__(
        self,
        engine: Engine,
        encode: Encoder | None = None,
        prefill: Prefiller | None = None,
        policy: DecodePolicy | None = None,
        metrics: StageMetrics | None = None,
    ) -> None:
        if engine.autocast is not None:
            raise ValueError("stages exchange what is computed in the weights' own type; load them in it")
        self.engine, self.encode, self.prefill = engine, encode, prefill
        self.policy, self.metrics = policy or DecodePolicy(), metrics or StageMetrics()
        self.features_of, self.keys_of = of_features(engine.vision_cache), of_keys(engine)
        self._threads = ThreadPoolExecutor(self.policy.waiting, "stages")
        if encode is not None or prefill is not None:  # all weights are read; not when the first request comes
            self.features_of.now()
        if prefill is not None:
            self.keys_of.now()
        self._ahead = Ahead(lambda: engine.pool.available * engine.pool.size)

    async def gather(self, request: Request) -> Shipment:
        """All that a request needs of other stages; `begin` it in the engine's thread, and `leave` when it has begun or
        will not.

        Raises UserError for a request that cannot be answered, and StageError where nothing is computed instead.
        """
        loop = asyncio.get_running_loop()
        shipment = Shipment(await loop.run_in_executor(self._threads, self.engine.prompt, request))
        await self._ahead.enter(len(shipment.prompt.token_ids))
        try:
            await loop.run_in_executor(self._threads, self.fetch, shipment)
        except BaseException:
            self.leave(shipment)
            raise
        return shipment

    def leave(self, shipment: Shipment) -> None:
        """A request that was gathered has begun, or is given up."""
        self._ahead.leave(len(shipment.prompt.token_ids))

    def look(self) -> None:
        """A request has ended: there may be room."""
        self._ahead.look()

    def fetch(self, shipment: Shipment) -> None:
        """Asks the stages for what the engine does not have. Blocks; any thread may call. Raises StageError."""
        prompt = shipment.prompt
        if prompt.request.prompt_log_probs:  # every token is computed for them
            return
        shipment.start = self.engine.handover.held(prompt)
        missing = len(prompt.token_ids) - shipment.start
        if not missing:
            return
        if len(prompt.places) and int(prompt.places[-1]) >= shipment.start:
            self._fetch_features(shipment)
        # stages have the model alone: what an adapter changes is computed here
        if self.prefill is not None and missing >= self.policy.least and prompt.adapter is None:
            self._fetch_keys(shipment, self.prefill)

    def begin(self, shipment: Shipment) -> int:
        """Takes over what has come, queues the request and gives its number. In the engine's thread. Raises StageError
        as `fetch` does."""
        if shipment.features is not None:
            try:
                if shipment.features_of != self.features_of.now():
                    raise other_weights()
                put_features(self.engine.vision_cache, shipment.prompt, shipment.features)
            except ValueError as error:
                self._failed("encode", StageError("refused", str(error)))
            except StageError as error:
                self._failed("encode", error)
        if (given := shipment.keys) is not None:
            try:
                if shipment.keys_of != self.keys_of.now():
                    raise other_weights()
                if not self.engine.handover.take(shipment.prompt, shipment.start, given.keys, given.values):
                    self._fallback("prefill", "room")
            except ValueError as error:
                self._failed("prefill", StageError("refused", str(error)))
            except StageError as error:
                self._failed("prefill", error)
        return self.engine.begin(shipment.prompt)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fetch_features(self, shipment: Shipment) -> None:
        """Of all pictures of the prompt: those at hand, and the rest from the encode stage."""
        prompt, cache = shipment.prompt, self.engine.vision_cache
        named = list(zip(prompt.digests, grids_of(prompt), strict=True))
        held = [cache.find(digest, grid) for digest, grid in named]
        new = list({name: place for place, name in enumerate(named) if held[place] is None}.values())
        shipment.features_of = self.features_of.now()
        if new:
            if self.encode is None:
                return
            seen, began = visuals_of(prompt), time.monotonic()
            try:
                self.metrics.count("stage_requests", stage="encode")
                found = self.encode.encode([seen[place] for place in new], shipment.features_of, prompt.request.salt)
            except StageError as error:
                self._failed("encode", error)
                return
            self.metrics.answered("encode", time.monotonic() - began, found.batch)
            by_name = dict(zip([named[place] for place in new], found.each, strict=True))
            held = [by_name.get(name, one) for name, one in zip(named, held, strict=True)]
        shipment.features = [one for one in held if one is not None]

    def _fetch_keys(self, shipment: Shipment, prefill: Prefiller) -> None:
        shipment.keys_of, began = self.keys_of.now(), time.monotonic()
        try:
            self.metrics.count("stage_requests", stage="prefill")
            features = shipment.features if shipment.features_of == self.features_of.now() else None
            shipment.keys = prefill.prefill(shipment.prompt, features, shipment.start, shipment.keys_of)
        except StageError as error:
            self._failed("prefill", error)
        else:
            self.metrics.answered("prefill", time.monotonic() - began, shipment.keys.batch)

    def _failed(self, stage: str, error: StageError) -> None:
        self.metrics.count("stage_failures", stage=stage, reason=error.reason)
        if not self.policy.fallback:
            raise error
        self._fallback(stage, error.reason)

    def _fallback(self, stage: str, reason: str) -> None:
        self.metrics.count("stage_fallbacks", stage=stage, reason=reason)


class Ahead:
    """Lets prompts in, first come first served, as long as those that have not begun yet fit into the tokens that
    `room` gives. One alone is always let in. Of one event loop."""

    def __init__(self, room: Callable[[], int]) -> None:
        self.room, self.tokens = room, 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, tokens: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, turn))
        self.look()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in and given up at once
                self.leave(tokens)
            raise

    def leave(self, tokens: int) -> None:
        self.tokens -= tokens
        self.look()

    def look(self) -> None:
        """Lets in who fits now."""
        while self._waiting:
            tokens, turn = self._waiting[0]
            if not turn.done():
                if self.tokens and self.tokens + tokens > self.room():
                    return
                self.tokens += tokens
                turn.set_result(None)
            self._waiting.popleft()
