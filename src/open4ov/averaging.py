"""The exponential moving average of a training's weights: often a better model than the last step's.

n steps on, it is d * average + (1 - d) * weights with d = min(decay, (1 + n) / (10 + n)), so that the start is soon
forgotten (as TensorFlow's ExponentialMovingAverage does with `num_updates`). Kept in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

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


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters that are not frozen, by name."""
    return {name: p.detach().clone() for name, p in _trained(model)}


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
