"""Group Sequence Policy Optimization with asymmetric clipping and no KL term (paper §4.2.3, eq. 11-12).

Shapes: T tokens of a pack, B responses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """What one GSPO loss saw: plain numbers over the B responses."""

    ratio: float  # mean of s_i
    clipped_low: float  # share of responses whose gradient the lower bound stopped
    clipped_high: float  # share of responses whose gradient the upper bound stopped


def loss(
    logp: Tensor,
    old_logp: Tensor,
    documents: Tensor,
    advantages: Tensor,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> tuple[Tensor, Statistics]:
    """The GSPO loss of B responses: minus the mean over responses of min(s A, clip(s, 1-low, 1+high) A).

    s_i = exp(mean over the tokens of response i of (logp - old_logp)) is one ratio for a whole response (eq. 12), and
    every response weighs the same however long it is (eq. 11).

    logp       [T] log-probabilities under the policy being trained
    old_logp   [T] the same under the policy that sampled the responses
    documents  [T] integers: the response (0..B-1) a token belongs to; -1 for tokens of no response (prompts)
    advantages [B]

    Raises ValueError when a response has no token.
    """
    mine = documents >= 0
    index = documents[mine]
    count = len(advantages)
    lengths = torch.zeros(count, dtype=logp.dtype, device=logp.device).index_add_(
        0, index, torch.ones_like(index, dtype=logp.dtype)
    )
    if bool((lengths == 0).any()):
        raise ValueError(f"responses without tokens: {torch.nonzero(lengths == 0).flatten().tolist()}")
    sums = torch.zeros(count, dtype=logp.dtype, device=logp.device).index_add(
        0, index, logp[mine] - old_logp[mine].detach()
    )
    ratio = torch.exp(sums / lengths)
    advantage = advantages.to(ratio.dtype)
    objective = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    with torch.no_grad():
        statistics = Statistics(
            ratio=ratio.mean().item(),
            clipped_low=((ratio < 1 - clip_low) & (advantage < 0)).float().mean().item(),
            clipped_high=((ratio > 1 + clip_high) & (advantage > 0)).float().mean().item(),
        )
    return -objective.mean(), statistics
