"""The loss on samples that are not trained on, during the training, and an early end when it falls no more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from open4ov.averaging import Average, trained_weights
from open4ov.checkpoints import put
from open4ov.errors import UserError
from open4ov.model import Batch, Trainable
from open4ov.recipe_sft import ValidationSection
from open4ov.sample import Sample, content_id
from open4ov.sft import packing
from open4ov.sft.encoding import SampleEncoder
from open4ov.training_pass import Spread, shared_out, summed

B = TypeVar("B", bound=Batch)
V = TypeVar("V")


class Watch:
    """What validation has seen. The best weights are kept where there is a `patience`, to go back to."""

    def __init__(self, section: ValidationSection) -> None:
        self.section = section
        self.best: float | None = None
        self.best_step = 0
        self.worse = 0
        """Measurements since the best one"""
        self.too_long = 0
        """Samples that could not be measured"""
        self.best_weights: dict[str, Tensor] = {}

    @property
    def stopped(self) -> bool:
        return 0 < self.section.patience <= self.worse

    def see(self, step: int, loss: float, weights: Callable[[], dict[str, Tensor]]) -> None:
        """Takes in a measurement. A loss that is not a number is worse than any."""
        if self.best is None or loss < self.best or math.isnan(self.best):
            self.best, self.best_step, self.worse = loss, step, 0
            if self.section.patience:
                self.best_weights = weights()
        else:
            self.worse += 1

    def notes(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "worse": self.worse}

    def restore(self, notes: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        """Goes on from what a checkpoint held."""
        self.best, self.best_step, self.worse = notes["best"], notes["best_step"], notes["worse"]
        self.best_weights = weights

    def summary(self) -> dict[str, Any]:
        figures = {"best_loss": self.best, "best_step": self.best_step, "stopped_early": self.stopped}
        figures |= {"too_long": self.too_long}
        return {"validation": figures}


def chosen(
    samples: Sequence[Sample], count: int, length: Callable[[Sample], int], pack_tokens: int
) -> tuple[list[Sample], int]:
    """`count` of the samples that fit into a pack, the same ones whatever their order, and how many were passed over
    for being longer. `length`: tokens of a sample. Raises UserError when there are none."""
    if not samples:
        raise UserError(
            "sft.validation.every: there are no samples of the split val; give sft.held_out or data.hygiene.val a "
            "share, or set it to 0"
        )
    found: list[Sample] = []
    too_long = 0
    for sample in sorted(samples, key=lambda sample: content_id("validation", sample.id)):
        if len(found) == count:
            break
        if length(sample) <= pack_tokens:
            found.append(sample)
        else:
            too_long += 1
    if not found:
        raise UserError(
            f"sft.validation.every: none of {too_long} samples of the split val fits into a pack of {pack_tokens} "
            "tokens; raise pack_tokens, or set it to 0"
        )
    return found, too_long


def measure(
    model: Trainable[B, V],
    encoder: SampleEncoder[B, V],
    samples: Sequence[Sample],
    pack_tokens: int,
    precision: Callable[[], AbstractContextManager[Any]],
) -> float:
    """Mean loss over the targets of the samples (nats a token), rounded to 5 places; none is longer than a
    pack. The model comes back in training mode."""
    order = packing.plan([encoder.length(sample) for sample in samples], pack_tokens)
    assert order.packs, "`chosen` gives samples that fit"
    targets = [sum(encoder.targets(samples[i]) for i in indices) for indices in order.packs]
    total = 0.0
    model.eval()
    with torch.no_grad(), precision():
        for number in shared_out(model, lambda: targets, len(targets)):
            if number is None:
                assert isinstance(model, Spread)
                model.loss(cast(B, model.filler()))
                continue
            batch, features = encoder.pack([samples[i] for i in order.packs[number]])
            total += float(model.loss(batch, features)) * targets[number]
    model.train()
    return round(summed(model, [total])[0] / sum(targets), 5)


def watched(
    watch: Watch, step: int, model: Trainable[Any, Any], average: Average | None, loss: Callable[[], float]
) -> float:
    """Measures the weights that would be saved now, and lets `watch` see the result."""
    if average is None:
        value = loss()
        watch.see(step, value, lambda: trained_weights(model))
        return value
    live = trained_weights(model)
    put(model, average.weights)
    try:
        value = loss()
        watch.see(step, value, lambda: trained_weights(model))
    finally:
        put(model, live)
    return value
