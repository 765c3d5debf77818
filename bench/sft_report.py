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


AIM = 3.0
"""Times the peer's useful tokens a second"""
EPOCHS = 3
"""Over which what comes before the steps is spread, for the aim"""
HELD_OUT = 0.01
"""Held-out losses are called equal up to this (nats a token)"""


@dataclass(frozen=True)
class Result:
    """What is held against the aims: ratios ours to the peer's, and the held-out loss's difference."""

    kind: str
    each: int
    steps: float
    epochs: float
    memory: float
    loss: float

    @staticmethod
    def of(kind: str, each: int, tokens: int, found: Mapping[str, Any]) -> Result:
        """`tokens`: of one epoch; `found`: what `race` gave."""
        ours, peer, held = found["ours"], found["peer"], found["held_out"]
        return Result(
            kind,
            each,
            ours.speed / peer.speed,
            over(EPOCHS, tokens, ours.speed, found["before"]) / peer.speed,
            ours.peak / peer.peak,
            held["ours"] - held["peer"],
        )


def over(epochs: int, tokens: int, speed: float, before: float) -> float:
    """Tokens a second over several epochs of `tokens` each, with the seconds that come `before` them."""
    return epochs * tokens / (epochs * tokens / speed + before)


def aims(results: Sequence[Result]) -> str:
    """What of the aims is reached, line by line."""
    lines = [
        "",
        f"Aim: at least {AIM:g} times TRL's useful tokens a second, no more memory, held-out loss no worse (by more "
        f"than {HELD_OUT:g}).",
        "",
        f"| model | questions a picture | steps alone | over {EPOCHS} epochs, all included | memory | held-out loss | "
        "reached |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        missed = [
            name
            for name, bad in (
                ("speed of the steps", r.steps < AIM),
                (f"speed over {EPOCHS} epochs", r.epochs < AIM),
                ("memory", r.memory > 1),
                ("loss", r.loss > HELD_OUT),
            )
            if bad
        ]
        lines.append(
            f"| {r.kind} | {r.each} | {r.steps:.2f} | {r.epochs:.2f} | {r.memory:.2f} | {r.loss:+.4f} | "
            f"{'not: ' + ', '.join(missed) if missed else 'yes'} |"
        )
    lines += [
        "",
        "A picture is computed once for its questions only where it has several and they stand together in the order "
        "(`sft.gather_pictures`), as they do here with more than one; data with one question a picture gains nothing "
        "by it.",
    ]
    return "\n".join(lines) + "\n"


def markdown(
    title: str,
    tokens: int,
    tuned: Mapping[str, Figures],
    found: Mapping[str, Any],
    factors: Sequence[tuple[str, float]],
    tried: bool,
) -> str:
    """One part. `tokens`: of one epoch; `tuned`: the peer's settings, where they were tried for this part; `tried`:
    whether they were at all; `found`: what `race` gave; `factors`: tokens a second as savings go."""
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
        f"| | ours | TRL, {'its best setting' if tried else 'first setting, none tried'} | ratio |",
        "|---|---|---|---|",
    ]
    for epochs in (1, 3, 10):
        speed = over(epochs, tokens, ours.speed, found["before"])
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
