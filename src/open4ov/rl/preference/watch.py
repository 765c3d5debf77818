"""Held-out pairs, measured while DPO trains: is the chosen response preferred, and does it stay likely?

Eq. 13 only asks for a lead over the rejected response. It is content when both fall, and the model then says neither:
so the chosen responses' log-probability a token is held against the one that training began with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from open4ov.recipe_dpo import DpoSection
from open4ov.rl.preference.loss import of_pairs
from open4ov.rl.preference.scores import Scores
from open4ov.sample import Sample, content_id


class Watch:
    """What the measurements have shown. With `on_fall: stop` the weights of the best one are kept, to go back to: the
    one with the lowest loss among those before the fall."""

    def __init__(self, section: DpoSection) -> None:
        self.section = section
        self.points: list[dict[str, float]] = []
        self.best_step: int | None = None
        self.best_weights: dict[str, Tensor] = {}

    @property
    def fallen(self) -> float:
        """Nats a token by which the chosen responses are less likely than at the start; negative when more."""
        return self._fallen(self.points[-1]) if self.points else 0.0

    @property
    def fell(self) -> bool:
        # what is no number has fallen, too
        return not self.fallen <= self.section.watch

    @property
    def first_fall(self) -> float | None:
        """By how much at the first measurement that showed a fall; None where none did."""
        falls = map(self._fallen, self.points)
        return next((fallen for fallen in falls if not fallen <= self.section.watch), None)

    def _fallen(self, point: Mapping[str, float]) -> float:
        return self.points[0]["chosen_logp_a_token"] - point["chosen_logp_a_token"]

    @property
    def stopped(self) -> bool:
        return self.section.on_fall == "stop" and self.fell

    def see(self, step: int, figures: Mapping[str, float], weights: Callable[[], dict[str, Tensor]]) -> None:
        """Takes in a measurement."""
        self.points.append({"step": step, **figures})
        if self.fell or self.section.on_fall != "stop":
            return
        losses = [point["loss"] for point in self.points[:-1]]
        if not any(loss <= figures["loss"] for loss in losses if math.isfinite(loss)):
            self.best_step, self.best_weights = step, weights()

    def notes(self) -> dict[str, Any]:
        return {"points": self.points, "best_step": self.best_step}

    def restore(self, notes: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        """Goes on from what a checkpoint held."""
        self.points, self.best_step = list(notes["points"]), notes["best_step"]
        self.best_weights = weights

    def summary(self) -> dict[str, Any]:
        if not self.points:
            return {}
        told: dict[str, Any] = {"first": self.points[0], "last": self.points[-1], "fallen": round(self.fallen, 5)}
        if self.section.on_fall == "stop":
            told |= {"stopped_early": self.stopped, "best_step": self.best_step}
        return {"validation": told}


def figures(scores: Scores, section: DpoSection, reference: Tensor | None = None) -> dict[str, float]:
    """Of held-out pairs: the loss that is trained, how many are preferred rightly, the lead as in the curve, and the
    chosen response's log-probability a token (the mean over pairs). `reference` [B, 2]: as for `loss.of_pairs`."""
    sums, lengths = scores
    value, found = of_pairs(sums, lengths, section, reference)
    return {
        "loss": round(float(value), 5),
        "accuracy": round(found["accuracy"], 4),
        "lead": round(found["lead"], 4),
        "chosen_logp_a_token": round(float((sums[:, 0] / lengths[:, 0]).mean()), 5),
    }


def apart(pairs: Sequence[Sample], count: int, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the pairs to train on and of about `count` to validate with; of few pairs a tenth is kept apart.
    Pairs about one picture, or that ask the same without one, are on the same side. Where every picture has more pairs
    than are wanted it is the one with fewest; none where all are about one."""
    groups: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault(_about(pair), []).append(number)
    wanted, held = min(count, len(pairs) // 10), list[int]()
    order = sorted(groups, key=lambda name: content_id("dpo validation", seed, name))
    for name in order:
        if len(held) + len(groups[name]) <= wanted:
            held += groups[name]
    if wanted and not held and len(groups) > 1:
        held = min((groups[name] for name in order), key=len)
    kept = set(held)
    return [number for number in range(len(pairs)) if number not in kept], sorted(held)


def _about(pair: Sample) -> str:
    """What a pair is about: the picture that its question was made for, though it may not be shown."""
    pictures = pair.extra.get("pair_about") or pair.images
    return content_id(pictures) if pictures else content_id([m.text for m in pair.messages[:-1]])
