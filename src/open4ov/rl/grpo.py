"""GRPO and DAPO: a ratio for each token, to compare GSPO with (Shao et al. 2024; Yu et al. 2025).

Both are without the KL term here, as the paper's method is (§4.2.3). They differ in how tokens are averaged, and in the
upper bound.

Shapes: R tokens, B responses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from open4ov.rl.clipping import RatioStatistics, clipped, lengths, sums

CLIP = (0.2, 0.2)
DAPO_CLIP = (0.2, 0.28)
"""Clip-higher: rare tokens may gain more"""


def loss(
    logp: Tensor,
    old_logp: Tensor,
    response: Tensor,
    advantages: Tensor,
    clip_low: float = CLIP[0],
    clip_high: float = CLIP[1],
    weights: Tensor | None = None,
) -> tuple[Tensor, RatioStatistics]:
    """GRPO: minus the mean over responses of the mean over their tokens of w min(r A, clip(r) A), r = p / p_old.

    Shapes and meaning as in `gspo.loss`. Raises ValueError when a response has no token.
    """
    objective, statistics, response = _tokens(logp, old_logp, response, advantages, clip_low, clip_high, weights)
    count = len(advantages)
    means = sums(objective, response, count) / lengths(response, count, objective)
    return -means.mean(), statistics


def dapo(
    logp: Tensor,
    old_logp: Tensor,
    response: Tensor,
    advantages: Tensor,
    clip_low: float = DAPO_CLIP[0],
    clip_high: float = DAPO_CLIP[1],
    weights: Tensor | None = None,
) -> tuple[Tensor, RatioStatistics]:
    """DAPO: the same with one mean over the tokens of all B responses, so that long ones weigh more.

    Raises ValueError when a response has no token.
    """
    objective, statistics, response = _tokens(logp, old_logp, response, advantages, clip_low, clip_high, weights)
    lengths(response, len(advantages), objective)
    return -objective.mean(), statistics


def _tokens(
    logp: Tensor,
    old_logp: Tensor,
    response: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    weights: Tensor | None,
) -> tuple[Tensor, RatioStatistics, Tensor]:
    """The weighted objective of each token of a response, and the response of each [R]."""
    mine = response >= 0
    response = response[mine]
    ratio = torch.exp(logp[mine] - old_logp[mine].detach())
    advantage = advantages.to(ratio.dtype)[response]
    objective = clipped(ratio, advantage, clip_low, clip_high)
    if weights is not None:
        objective = weights[mine].detach() * objective
    if not len(objective):
        raise ValueError("there is no token of any response")
    return objective, RatioStatistics.of(ratio.detach(), advantage, clip_low, clip_high), response
