"""What numbers depend on, in one word: two processes may exchange features, keys and values if theirs is the same."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from open4ov.engine.generate import Engine
from open4ov.engine.vision_cache import VisionCache


class Fingerprint:
    """SHA-256 of weights and of `options`, worked out again when `version` is another."""

    def __init__(
        self, version: Callable[[], int], weights: Callable[[], dict[str, Tensor]], options: Callable[[], object]
    ) -> None:
        self._version, self._weights, self._options = version, weights, options
        self._known: tuple[int, str] | None = None
        self._lock = threading.Lock()

    def now(self) -> str:
        with self._lock:
            version = self._version()
            if self._known is None or self._known[0] != version:
                self._known = (version, self._digest())
            return self._known[1]

    @torch.no_grad()
    def _digest(self) -> str:
        digest = hashlib.sha256(repr(self._options()).encode())
        for name, tensor in sorted(self._weights().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def of_features(cache: VisionCache) -> Fingerprint:
    """What pictures' features depend on."""
    processor, model = cache.processor, cache.model
    return Fingerprint(
        lambda: cache.version,
        model.vision.state_dict,
        lambda: ("features", model.config.vision, processor.images, processor.videos, cache.dtype),
    )


def of_keys(engine: Engine) -> Fingerprint:
    """What keys and values depend on."""
    processor, model = engine.processor, engine.model
    return Fingerprint(
        lambda: engine.weight_version,
        model.state_dict,
        lambda: ("keys", model.config, processor.images, processor.videos, engine.dtype, engine.autocast),
    )
