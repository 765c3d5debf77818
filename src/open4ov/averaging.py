"""Weights between others: a training's exponential moving average, and a model part of the way that training went.

The average is often a better model than the last step's. n steps on, it is d * average + (1 - d) * weights with
d = min(decay, (1 + n) / (10 + n)), so that the start is soon forgotten (as TensorFlow's ExponentialMovingAverage does
with `num_updates`). Kept in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class Average:
    """The average of the model's trained parameters, by name; it begins as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: p.detach().float().clone() for name, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights after one more step."""
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, parameter in _trained(model):
            self.weights[name].lerp_(parameter.float(), 1 - keep)

    def restore(self, steps: int, weights: Mapping[str, Tensor]) -> None:
        """Goes on from what a checkpoint held."""
        self.steps = steps
        for name, value in weights.items():
            self.weights[name].copy_(value)


@torch.no_grad()
def interpolate(model: nn.Module, start: Iterable[tuple[str, Tensor]], share: float) -> None:
    """Leaves the model at start + share * (model - start) (WiSE-FT, arXiv:2109.01903): what training taught stays for
    the most part, and most of what it cost comes back. `start` has the same parameters, one after another by name, and
    may be on another device.

    Raises KeyError for a parameter that one of the two lacks.
    """
    own = dict(model.named_parameters())
    for name, before in start:
        parameter = own.pop(name)
        parameter.lerp_(before.to(parameter), 1 - share)
    if own:
        raise KeyError(next(iter(own)))


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters that are not frozen, by name."""
    return {name: p.detach().clone() for name, p in _trained(model)}


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
