"""What `python -m bench.sft` measured, and the Markdown of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass
class Figures:
    """What blocks of steps gave together; seconds by the clock that was asked for."""

    seconds: float = 0.0
    tokens: int = 0
    targets: int = 0
    slots: int = 0
    peak: int = 0
    speeds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, report: dict[str, Any], clock: str) -> None:
        seconds, tokens = report["seconds" if clock == "wall" else "cpu"], 0
        for step in report["steps"]:
            tokens += step["tokens"]
            self.targets += step["targets"]
            self.slots += step["slots"]
            self.losses.append(step["loss"])
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + tokens
        self.peak = max(self.peak, report["peak"])
        if tokens:
            self.speeds.append(tokens / seconds)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def markdown(
    title: str,
    tokens: int,
    tuned: Mapping[str, Figures],
    found: Mapping[str, Any],
    factors: Sequence[tuple[str, float]],
) -> str:
    """One model's part. `tokens`: of one epoch; `found`: what `race` gave; `factors`: tokens a second as savings go."""
    ours: Figures = found["ours"]
    peer: Figures = found["peer"]
    lines = [title]
    if tuned:
        lines += [
            "",
            "| TRL's settings, tried for two steps | tokens/s | slots a token, padding included |",
            "|---|---|---|",
        ]
        lines += [f"| {name} | {f.speed:.0f} | {f.slots / f.tokens:.2f} |" for name, f in tuned.items()]
    lines += [
        "",
        f"| | ours | TRL, {'its best setting' if tuned else 'first setting, none tried'} | ratio |",
        "|---|---|---|---|",
    ]
    for epochs in (1, 3, 10):
        speed = epochs * tokens / (epochs * tokens / ours.speed + found["before"])
        name = f"useful tokens/s over {epochs} epoch{'s' if epochs > 1 else ''}, with all that comes before the steps"
        lines.append(_line(name, speed, peer.speed))
    lines.append(_line("useful tokens/s, steps alone", ours.speed, peer.speed))
    pairs = sorted(a / b for a, b in zip(ours.speeds, peer.speeds, strict=False))
    if pairs:
        spread = f"{statistics.median(pairs):.2f} ({pairs[0]:.2f} to {pairs[-1]:.2f})"
        lines.append(f"| the same, turn by turn: median and range | | | {spread} |")
    lines.append(_line("predicted tokens/s, steps alone", ours.targets / ours.seconds, peer.targets / peer.seconds))
    lines.append(_line("peak resident memory, MiB", ours.peak / 2**20, peer.peak / 2**20))
    held = found["held_out"]
    lines.append(
        f"| loss on held-out samples ({found['start']:.3f} before) | {held['ours']:.4f} | {held['peer']:.4f} | |"
    )
    if factors:
        lines += ["", "| saving taken away | tokens/s that remain | factor |", "|---|---|---|"]
        lines.append(f"| none: features in hand | {factors[0][1]:.0f} | |")
        for (_, before), (name, speed) in pairwise(factors):
            lines.append(f"| {name} | {speed:.0f} | {before / speed:.2f} |")
        lines.append(f"| all factors together | | {factors[0][1] / factors[-1][1]:.2f} |")
    return "\n".join(lines) + "\n"


def _line(name: str, ours: float, peer: float) -> str:
    return f"| {name} | {ours:.0f} | {peer:.0f} | {ours / peer:.2f} |"
