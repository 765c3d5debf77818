"""PPO's clipped objective, and what a loss tells of its ratios. What GSPO, GRPO and DAPO have in common.

Shapes: U units that have a ratio of their own (responses of GSPO, tokens of GRPO and DAPO).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RatioStatistics:
    """What one loss saw of its ratios, plain numbers: of responses where a response has one ratio (GSPO), of tokens
    where each has its own (GRPO, DAPO)."""

    ratio: float  # mean
    ratio_min: float
    ratio_max: float
    clipped_low: float  # share whose gradient the lower bound stopped
    clipped_high: float  # share whose gradient the upper bound stopped

    @staticmethod
    @torch.no_grad()
    def of(ratio: Tensor, advantage: Tensor, low: float, high: float) -> RatioStatistics:
        """ratio, advantage [U], U at least 1."""
        figures = (
            ratio.mean(),
            ratio.min(),
            ratio.max(),
            ((ratio < 1 - low) & (advantage < 0)).float().mean(),
            ((ratio > 1 + high) & (advantage > 0)).float().mean(),
        )
        told = torch.stack([figure.double() for figure in figures]).cpu()  # one wait for the device
        return RatioStatistics(*map(float, told))


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """min(r A, clip(r, 1 - low, 1 + high) A) [U]: no more is gained by a ratio beyond the bound that A pushes it to."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def lengths(response: Tensor, count: int, like: Tensor) -> Tensor:
    """Tokens of each response [B], in the type of `like`. response [R]: 0 .. B-1; count: B.

    Raises ValueError when a response has no token.
    """
    found = torch.zeros(count, dtype=like.dtype, device=like.device)
    found.index_add_(0, response, torch.ones_like(response, dtype=like.dtype))
    if bool((found == 0).any()):
        empty = [place for place in range(count) if not found[place]]
        raise ValueError(f"responses without tokens: {empty}")
    return found


def sums(values: Tensor, response: Tensor, count: int) -> Tensor:
    """The sum over the tokens of each response: values [R] -> [B]."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, response, values)
