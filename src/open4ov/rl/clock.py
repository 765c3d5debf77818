"""How long the parts of a step took, and how fast that was."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch


def now(device: torch.device) -> float:
    """Seconds, once `device` has done what it was given: a GPU works on after the call that gave it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


class Clock:
    """`with clock("rollout"): ...` for each part of a step."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Generator[None]:
        began = now(self._device)
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + now(self._device) - began

    def pace(self, tokens: Mapping[str, int], whole: int) -> dict[str, float]:
        """Seconds of each part and of all; response tokens a second of each part in `tokens`, which has those that it
        computed, and of all by the step's `whole`."""
        found: dict[str, float] = {}
        for part, seconds in self._seconds.items():
            found[f"{part}_seconds"] = round(seconds, 4)
            if part in tokens:
                found[f"{part}_tokens_per_second"] = round(tokens[part] / max(seconds, 1e-9))
        seconds = sum(self._seconds.values())
        return {**found, "seconds": round(seconds, 4), "tokens_per_second": round(whole / max(seconds, 1e-9))}
