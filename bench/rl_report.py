"""What `python -m bench.rl` measured, and the Markdown of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PHASES = ("rollout", "score", "update")


@dataclass
class Figures:
    """Seconds of each step's phases, by the clock that was asked for; peak memory in bytes."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak: int = 0
    phases: tuple[str, ...] = PHASES

    def add(self, report: dict[str, Any], clock: str) -> None:
        for step in report["steps"]:
            for name in self.phases:
                spent = step["phases"].get(name, [0.0, 0.0])[clock == "cpu"]
                self.seconds.setdefault(name, []).append(spent)
        self.peak = max(self.peak, report["peak"])

    def of(self, phase: str) -> float:
        """The median step's seconds."""
        return statistics.median(self.seconds[phase])

    @property
    def wholes(self) -> list[float]:
        return [sum(parts) for parts in zip(*(self.seconds[name] for name in self.phases), strict=True)]

    @property
    def whole(self) -> float:
        return statistics.median(self.wholes)


@dataclass(frozen=True)
class Counted:
    """Operations of a step's update. `without_vision`: of the peer's, if it had the pictures' features."""

    ours: float
    peer: float
    without_vision: float

    @property
    def allowed(self) -> float:
        return self.peer / self.ours

    def told(self, ours: float, peer: float) -> str:
        """How much of the allowed ratio the seconds of the two sides reach."""
        ratio = peer / ours
        return (
            f"Counted by formula: {self.ours / 1e9:.0f} GFLOP ours, {self.peer / 1e9:.0f} TRL's, which allow a ratio "
            f"of {self.allowed:.2f} (shared prompt {self.without_vision / self.ours:.2f} x tower "
            f"{self.peer / self.without_vision:.2f}); measured {ratio:.2f}, **{100 * ratio / self.allowed:.0f} % of "
            f"it**. GFLOP/s: {self.ours / ours / 1e9:.1f} ours, {self.peer / peer / 1e9:.1f} TRL."
        )


def markdown(
    title: str, tuned: Mapping[str, Figures], setting: str, found: Mapping[str, Figures], counted: Counted
) -> str:
    """One model's part at one length of prompts."""
    ours, peer = found["ours"], found["peer"]
    lines = [title]
    if tuned:
        lines += ["", "| TRL's settings, tried for a step | score, s | update, s |", "|---|---|---|"]
        lines += [f"| {name} | {f.of('score'):.2f} | {f.of('update'):.2f} |" for name, f in tuned.items()]
    lines += ["", f"| a step, seconds | ours | TRL, {setting} | ratio (range over steps) |", "|---|---|---|---|"]
    for name in PHASES:
        lines.append(_line(name, ours.of(name), peer.of(name), ours.seconds[name], peer.seconds[name]))
    lines.append(_line("whole step", ours.whole, peer.whole, ours.wholes, peer.wholes))
    lines.append(
        f"| peak resident memory, MiB | {ours.peak / 2**20:.0f} | {peer.peak / 2**20:.0f} | "
        f"{peer.peak / ours.peak:.2f} |"
    )
    lines += ["", f"The update. {counted.told(ours.of('update'), peer.of('update'))}"]
    return "\n".join(lines) + "\n"


def _line(name: str, ours: float, peer: float, mine: list[float], theirs: list[float]) -> str:
    ratios = sorted(b / a if a else float("nan") for a, b in zip(mine, theirs, strict=True))
    return f"| {name} | {ours:.2f} | {peer:.2f} | {peer / ours:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
