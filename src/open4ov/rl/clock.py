"""How long the parts of a step took, and how fast that was."""

from __future__ import annotations

import time
from collections.abc import Generator
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

    def pace(self, tokens: int) -> dict[str, float]:
        """Seconds of each part and of all, and response tokens a second by each and by all."""
        found: dict[str, float] = {}
        parts = {f"{part}_": seconds for part, seconds in self._seconds.items()}
        for part, seconds in {**parts, "": sum(parts.values())}.items():
            found[f"{part}seconds"] = round(seconds, 4)
            found[f"{part}tokens_per_second"] = round(tokens / max(seconds, 1e-9))
        return found
