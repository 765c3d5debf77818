"""Counters of a running engine, in Prometheus' text format, named as vLLM names its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open4ov.engine.generate import Engine

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper ends of the histograms' buckets, in seconds"""


class Histogram:
    """Durations in seconds, counted by bucket."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[sum(seconds > bound for bound in BOUNDS)] += 1
        self.total += seconds

    def lines(self, name: str) -> list[str]:
        found, below = [f"# TYPE {name} histogram"], 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*found, f"{name}_sum {self.total:.6f}", f"{name}_count {below}"]


@dataclass
class Metrics:
    """What happened since the start. Written by the engine's thread; `refused` and what is of sessions by the event
    loop's."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    refused: int = 0
    aborted: int = 0
    sessions_open: int = 0
    session_ahead_tokens: int = 0
    """Computed before the question was whole"""
    session_found_tokens: int = 0
    """Of the prompts of sessions' answers: what had been computed"""
    session_rolled_back_tokens: int = 0
    """Computed ahead, and then of other words than were meant"""
    finished: Counter[str] = field(default_factory=Counter)
    time_to_first_token: Histogram = field(default_factory=Histogram)
    request_seconds: Histogram = field(default_factory=Histogram)

    def text(self, engine: Engine) -> str:
        """All of it, and how the engine stands now."""
        scheduler, pool, pictures = engine.scheduler, engine.pool, engine.vision_cache.statistics
        gauges = {
            "num_requests_running": len(scheduler.running),
            "num_requests_waiting": len(scheduler.waiting),
            "kv_cache_usage_perc": 1 - pool.available / pool.count,
            "vision_cache_bytes": pictures.bytes,
            "sessions_open": self.sessions_open,
        }
        counters = {
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generated_tokens,
            "num_preemptions": scheduler.preempted,
            "prefix_cache_queries": scheduler.prompt_tokens,
            "prefix_cache_hits": scheduler.found_tokens,
            "vision_cache_hits": pictures.hits,
            "vision_cache_misses": pictures.misses,
            "vision_cache_evictions": pictures.evicted,
            "requests_refused": self.refused,
            "requests_aborted": self.aborted,
            "session_tokens_ahead": self.session_ahead_tokens,
            "session_tokens_found": self.session_found_tokens,
            "session_tokens_rolled_back": self.session_rolled_back_tokens,
            "session_tokens_lost": scheduler.lost_tokens,
        }
        lines: list[str] = []
        for name, value in gauges.items():
            lines += [f"# TYPE open4ov:{name} gauge", f"open4ov:{name} {value:g}"]
        for name, value in counters.items():
            lines += [f"# TYPE open4ov:{name}_total counter", f"open4ov:{name}_total {value}"]
        lines.append("# TYPE open4ov:request_success_total counter")
        lines += [
            f'open4ov:request_success_total{{finished_reason="{reason}"}} {count}'
            for reason, count in sorted(self.finished.items())
        ]
        lines += self.time_to_first_token.lines("open4ov:time_to_first_token_seconds")
        lines += self.request_seconds.lines("open4ov:e2e_request_latency_seconds")
        return "\n".join(lines) + "\n"
