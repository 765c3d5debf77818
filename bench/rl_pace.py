"""The phases of a step, each timed by the wall and by what the process computed. Standard library and torch only: the
peer's worker runs it in the peer's environment, too."""

from __future__ import annotations

import time

import torch


class Phases:
    """One phase is on at a time, from `begin` on; `take` gives the seconds of each since the last take."""

    def __init__(self) -> None:
        self._name = ""
        self._at = self._now()
        self._spent: dict[str, list[float]] = {}

    def begin(self, name: str) -> None:
        """Ends the phase that is on; time before the first one counts for none."""
        self._add()
        self._name = name

    def take(self) -> dict[str, list[float]]:
        """Phase -> [seconds by the wall, seconds computed]. The phase that is on goes on; `begin("")` ends it."""
        self._add()
        spent, self._spent = self._spent, {}
        return spent

    def _add(self) -> None:
        now = self._now()
        if self._name:
            spent = self._spent.setdefault(self._name, [0.0, 0.0])
            for clock in (0, 1):
                spent[clock] += now[clock] - self._at[clock]
        self._at = now

    @staticmethod
    def _now() -> tuple[float, float]:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


def peak_gpu() -> float:
    """GiB that PyTorch has held on the GPU at most since the last call; 0 without one."""
    if not torch.cuda.is_initialized():
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak
