"""Stages that are other processes: the same calls as `Encode` and `Prefill`, over connections that are kept.

A call goes to the address with the fewest calls under way. When it breaks there the call is made again, elsewhere if
there is an elsewhere, and the address is left alone for a while that doubles each time. Calls change nothing in a
stage, so making them twice does no harm. What an address refuses, or cannot do for its key or its weights, is not asked
of it twice; with another key or other weights it is left alone too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from open4ov.engine.disaggregated.metrics import StageMetrics
from open4ov.engine.disaggregated.shared import host
from open4ov.engine.disaggregated.stages import Features, Keys, digest_of, grid_of
from open4ov.engine.disaggregated.transport import Address, Channel, Check, Spec, TransportError, WrongKey
from open4ov.engine.disaggregated.wire import hear_features, pixels_of, say_features, say_messages, say_visuals
from open4ov.engine.generate import Engine
from open4ov.engine.sequence import Prompt
from open4ov.engine.stage_error import StageError
from open4ov.engine.vision_cache import visual_hash
from open4ov.model import VisionFeatures
from open4ov.model.processing import Visual

log = logging.getLogger(__name__)
REASONS = ("weights", "refused", "failed", "unreachable")
FINAL = ("weights", "refused")
"""What an address would say again"""


@dataclass(frozen=True)
class CallPolicy:
    """`attempts` at a call, each of at most `timeout` seconds; where no address is left, `patience` seconds for one to
    come back. An address that failed is left alone for `rest` seconds, up to `longest` when it goes on."""

    attempts: int = 3
    timeout: float = 120.0
    patience: float = 0.0
    rest: float = 0.25
    longest: float = 30.0


@dataclass
class _Place:
    """What is known of an address."""

    idle: list[Channel] = field(default_factory=list)
    under_way: int = 0
    faults: int = 0
    until: float = 0.0
    fault: StageError | None = None
    """Why it is left alone"""


class _Remote:
    """Calls to the stages of one kind. `addresses` is asked each time: processes come and go."""

    def __init__(
        self,
        kind: str,
        addresses: Callable[[], Sequence[Address]],
        secret: bytes,
        metrics: StageMetrics,
        policy: CallPolicy | None = None,
        share: bool = True,
    ) -> None:
        self.kind, self.addresses, self.secret, self.metrics = kind, addresses, secret, metrics
        self.policy, self._host = policy or CallPolicy(), host() if share else None
        self._places: dict[Address, _Place] = {}
        self._lock, self._closed = threading.Lock(), False

    def call(self, say: dict[str, Any], tensors: Sequence[Tensor], check: Check) -> tuple[dict[str, Any], list[Tensor]]:
        """The stage's answer. `check` looks at its head before tensors are read. Raises StageError."""
        tried: set[Address] = set()
        final: set[Address] = set()
        wrong: StageError | None = None
        for attempt in range(self.policy.attempts):
            address = self._choose(tried, final)
            if address is None:
                break
            tried.add(address)
            if attempt:
                self.metrics.count("stage_retries", stage=self.kind)
            try:
                answer = self._once(address, say, tensors, check)
            except (TransportError, OSError) as error:
                wrong = StageError("refused" if isinstance(error, WrongKey) else "unreachable", f"{self.kind}: {error}")
                self._rest(address, wrong)
                final |= {address} if isinstance(error, WrongKey) else set()
                continue
            self.metrics.loaded(self.kind, f"{address[0]}:{address[1]}", answer[0].get("load"))
            if "error" not in answer[0]:
                self._fine(address)
                return answer
            reason = answer[0]["error"] if answer[0]["error"] in REASONS else "failed"
            wrong = StageError(reason, f"{self.kind}: {str(answer[0].get('message'))[:200]}")
            final |= {address} if reason in FINAL else set()
            if reason == "weights":  # of every request; what is refused may be this one's fault
                self._rest(address, wrong)
            else:
                self._fine(address)
        raise wrong or self._known_fault() or StageError("unreachable", f"no {self.kind} stage is there")

    def greet(self, address: Address) -> dict[str, Any] | None:
        """What a stage says of itself: `kind` and `fingerprint`; None when it is not there (yet), which is no fault
        before it is needed. Raises WrongKey."""
        try:
            channel, greeting = self._connect(address)
        except WrongKey:
            raise
        except (TransportError, OSError) as error:
            self._rest(address, StageError("unreachable", f"{self.kind}: {error}"))
            return None
        channel.close()
        return greeting

    def close(self) -> None:
        with self._lock:
            self._closed = True
            channels = [channel for place in self._places.values() for channel in place.idle]
            self._places = {}
        for channel in channels:
            channel.close()

    def _known_fault(self) -> StageError | None:
        """Why one of the addresses is left alone."""
        with self._lock:
            found = next((place.fault for place in self._places.values() if place.fault is not None), None)
        return None if found is None else StageError(found.reason, str(found))

    def _choose(self, tried: set[Address], final: set[Address]) -> Address | None:
        """An address to call; those not tried yet come first, those that rest or have said their last word are left
        out."""
        end = time.monotonic() + self.policy.patience
        while True:
            now, known = time.monotonic(), list(self.addresses())
            with self._lock:
                for gone in [address for address in self._places if address not in known]:
                    self.metrics.gone(self.kind, f"{gone[0]}:{gone[1]}")
                    for channel in self._places.pop(gone).idle:
                        channel.close()
                places = {address: self._places.setdefault(address, _Place()) for address in known}
                open_ = [address for address in known if address not in final]
                ready = [address for address in open_ if places[address].until <= now]
                if ready:
                    return min(ready, key=lambda address: (address in tried, places[address].under_way))
            if now >= end or self._closed or (known and not open_):
                return None
            time.sleep(0.05)

    def _once(
        self, address: Address, say: dict[str, Any], tensors: Sequence[Tensor], check: Check
    ) -> tuple[dict[str, Any], list[Tensor]]:
        place = self._place(address)
        channel = self._channel(address, place)
        before = vars(channel.traffic).copy()
        try:
            channel.send(say, tensors, self.policy.timeout)
            answer = channel.receive(_unless_error(check), idle=self.policy.timeout, timeout=self.policy.timeout)
        finally:
            with self._lock:
                place.under_way -= 1
            self._count(channel, before)
        with self._lock:
            keep = not self._closed and self._places.get(address) is place
            if keep:
                place.idle.append(channel)
        if not keep:
            channel.close()
        return answer

    def _channel(self, address: Address, place: _Place) -> Channel:
        with self._lock:
            place.under_way += 1
            while place.idle:
                channel = place.idle.pop()
                if channel.alive():
                    return channel
                channel.close()
        try:
            channel, greeting = self._connect(address)
            if greeting.get("kind") != self.kind:
                channel.close()
                raise TransportError(f"not a stage of kind {self.kind}")
            channel.share = greeting.get("share") is True and self._host is not None
            return channel
        except BaseException:
            with self._lock:
                place.under_way -= 1
            raise

    def _connect(self, address: Address) -> tuple[Channel, dict[str, Any]]:
        channel = Channel.connect(address, self.secret)
        channel.send({"host": self._host})
        return channel, channel.receive(limit=0)[0]

    def _place(self, address: Address) -> _Place:
        with self._lock:
            return self._places.setdefault(address, _Place())

    def _rest(self, address: Address, fault: StageError) -> None:
        place = self._place(address)
        with self._lock:
            place.faults, place.fault = place.faults + 1, fault
            place.until = time.monotonic() + min(self.policy.rest * 2 ** (place.faults - 1), self.policy.longest)
            first = place.faults == 1
        if first:
            log.warning("the stage at %s:%d begins to fail: %s", *address, fault)

    def _fine(self, address: Address) -> None:
        place = self._place(address)
        with self._lock:
            failed = place.faults > 0
            place.faults, place.until, place.fault = 0, 0.0, None
        if failed:
            log.warning("the %s stage at %s:%d answers again", self.kind, *address)

    def _count(self, channel: Channel, before: dict[str, int]) -> None:
        for name, value in vars(channel.traffic).items():
            if value > before[name]:
                way = "shared" if name.startswith("shared") else "tcp"
                direction = name.removeprefix("shared_")
                self.metrics.count("stage_bytes", value - before[name], stage=self.kind, direction=direction, way=way)


class RemoteEncode(_Remote):
    """An `Encoder` elsewhere, for the pictures of `engine`."""

    def __init__(self, engine: Engine, addresses: Callable[[], Sequence[Address]], *args: Any, **options: Any) -> None:
        super().__init__("encode", addresses, *args, **options)
        self.cache = engine.vision_cache

    def encode(self, seen: Sequence[Visual], fingerprint: str, salt: str = "") -> Features:
        layout, pixels = say_visuals(seen)
        digests = [visual_hash(one) for one in seen]
        wanted = [self.cache.shape(grid_of(one, self.cache.processor)) for one in seen]

        def check(say: dict[str, Any], specs: list[Spec]) -> None:
            if say["digests"] != digests:
                raise ValueError("features of other pictures")
            if [(spec.dtype, spec.shape) for spec in specs] != [(self.cache.dtype, shape) for shape in wanted]:
                raise ValueError("features of another shape or type")

        say, tensors = self.call({"layout": layout, "fingerprint": fingerprint, "salt": salt}, pixels, check)
        return Features(hear_features(tensors), _size(say))


class RemotePrefill(_Remote):
    """A `Prefiller` elsewhere, for prompts of `engine`."""

    def __init__(self, engine: Engine, addresses: Callable[[], Sequence[Address]], *args: Any, **options: Any) -> None:
        super().__init__("prefill", addresses, *args, **options)
        self.engine = engine

    def prefill(self, prompt: Prompt, features: list[VisionFeatures] | None, start: int, fingerprint: str) -> Keys:
        request, digest = prompt.request, digest_of(prompt)
        shape, dtype, end = self.engine.handover.shape(prompt, start), self.engine.dtype, len(prompt.token_ids)

        def check(say: dict[str, Any], specs: list[Spec]) -> None:
            if (say["prompt"], say["start"], say["end"]) != (digest, start, end):
                raise ValueError("keys and values of another prompt or range")
            if [(spec.dtype, spec.shape) for spec in specs] != [(dtype, shape)] * 2:
                raise ValueError("keys and values of another shape or type")

        head = {
            "messages": say_messages(request.messages),
            "images": len(request.images),
            "features": features is not None,
            "prompt": digest,
            "start": start,
            "fingerprint": fingerprint,
            "salt": request.salt,
            "ahead": request.ahead,
        }
        pixels = [pixels_of(image) for image in request.images]
        say, (keys, values) = self.call(head, [*pixels, *say_features(features or [])], check)
        return Keys(keys, values, _size(say))


def parse_addresses(text: str) -> list[Address]:
    """HOST:PORT, separated by commas. Raises ValueError."""
    found: list[Address] = []
    for one in filter(None, map(str.strip, text.split(","))):
        name, colon, port = one.rpartition(":")
        if not colon or not name or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{one!r} is not HOST:PORT")
        found.append((name.strip("[]"), int(port)))
    if not found:
        raise ValueError("no address")
    return found


def _unless_error(check: Check) -> Check:
    def looked(say: dict[str, Any], specs: list[Spec]) -> None:
        if "error" not in say:
            check(say, specs)
        elif specs:
            raise ValueError("an error with tensors")

    return looked


def _size(say: dict[str, Any]) -> int:
    batch = say.get("batch")
    return batch if type(batch) is int and 0 <= batch < 2**20 else 0
