"""Counters of what a server asks of its stages, in the style of `metrics.py`."""

from __future__ import annotations

import threading
from collections import Counter

from open4ov.engine.metrics import Histogram

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Upper ends of the buckets of batch sizes"""

LOADS = {
    "queue": ("stage_queue_length", "gauge"),
    "batches": ("stage_batches_total", "counter"),
    "busy": ("stage_busy_seconds_total", "counter"),
}
"""What a stage says of itself with every answer, and what it is called here"""


class StageMetrics:
    """Written by many threads. Stages are `encode` and `prefill`."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self.seconds: dict[str, Histogram] = {}
        self.batches: dict[str, Counter[int]] = {}
        self._loads: dict[tuple[str, str], dict[str, float]] = {}
        """What stages have last said of themselves, by stage and address"""
        self._lock = threading.Lock()

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """`name` without prefix and `_total`."""
        with self._lock:
            self.counts[name, tuple(labels.items())] += by

    def answered(self, stage: str, seconds: float, batch: int) -> None:
        """A stage has answered: after how long, and how many it has computed together."""
        with self._lock:
            self.counts["stage_answers", (("stage", stage),)] += 1
            self.seconds.setdefault(stage, Histogram()).add(seconds)
            self.batches.setdefault(stage, Counter())[batch] += 1

    def loaded(self, stage: str, address: str, load: object) -> None:
        """What a stage has said of itself (`threads.py`, `load`); what is no such thing is left alone."""
        if not isinstance(load, dict) or not all(_number(load.get(key)) for key in LOADS):
            return
        with self._lock:
            self._loads[stage, address] = {key: load[key] for key in LOADS}

    def gone(self, stage: str, address: str) -> None:
        """There is no stage at that address any more."""
        with self._lock:
            self._loads.pop((stage, address), None)

    def value(self, name: str, **labels: str) -> int:
        """Of all counters of that name that have these labels."""
        with self._lock:
            return sum(n for (of, own), n in self.counts.items() if of == name and labels.items() <= dict(own).items())

    def text(self) -> str:
        with self._lock:
            lines: list[str] = []
            for name in sorted({name for name, _ in self.counts}):
                lines.append(f"# TYPE open4ov:{name}_total counter")
                lines += [
                    f"open4ov:{name}_total{{{_labels(labels)}}} {count}"
                    for (of, labels), count in sorted(self.counts.items())
                    if of == name
                ]
            for key, (name, kind) in LOADS.items() if self._loads else ():
                lines.append(f"# TYPE open4ov:{name} {kind}")
                lines += [
                    f"open4ov:{name}{{{_labels((('stage', stage), ('address', address)))}}} {load[key]:.6g}"
                    for (stage, address), load in sorted(self._loads.items())
                ]
            for stage, sizes in sorted(self.batches.items()):
                lines += _sizes(f"open4ov:{stage}_batch_size", sizes)
            for stage, histogram in sorted(self.seconds.items()):
                lines += histogram.lines(f"open4ov:{stage}_stage_seconds")
            return "".join(f"{line}\n" for line in lines)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels)


def _sizes(name: str, sizes: Counter[int]) -> list[str]:
    lines = [f"# TYPE {name} histogram"]
    for bound in BATCHES:
        lines.append(f'{name}_bucket{{le="{bound}"}} {sum(n for size, n in sizes.items() if size <= bound)}')
    lines.append(f'{name}_bucket{{le="+Inf"}} {sizes.total()}')
    total = sum(size * n for size, n in sizes.items())
    return [*lines, f"{name}_sum {total}", f"{name}_count {sizes.total()}"]
