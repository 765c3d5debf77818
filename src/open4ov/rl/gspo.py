"""Group Sequence Policy Optimization with asymmetric clipping and no KL term (paper §4.2.3, eq. 11-12).

Shapes: R tokens, B responses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from open4ov.rl.clipping import RatioStatistics, clipped, lengths, sums

CLIP = (3e-4, 4e-4)
"""GSPO's own bounds, low and high: the ratio is a geometric mean over a response and stays very near 1"""


def loss(
    logp: Tensor,
    old_logp: Tensor,
    documents: Tensor,
    advantages: Tensor,
    clip_low: float = CLIP[0],
    clip_high: float = CLIP[1],
    weights: Tensor | None = None,
) -> tuple[Tensor, RatioStatistics]:
    """The GSPO loss of B responses: minus the mean over responses of min(s A, clip(s, 1-low, 1+high) A).

    s_i = exp(mean over the tokens of response i of (logp - old_logp)) is one ratio for a whole response (eq. 12), and
    every response weighs the same however long it is (eq. 11).

    logp       [R] log-probabilities under the policy being trained
    old_logp   [R] the same under the policy as it was before the update
    documents  [R] integers: the response (0..B-1) a token belongs to; -1 for tokens of no response (prompts)
    advantages [B]
    weights    [R] truncated importance weights (`importance.py`), without gradient; None: all 1

    With weights w_t each token has its share of the response's objective, times its weight:

        J_i = 1/|y_i| sum_t w_t min(s_t A_i, clip(s_t) A_i),    s_t = sg[s_i] p(y_t) / sg[p(y_t)]

    (sg: without gradient). Every s_t has the value s_i, so J_i is the mean weight times the clipped objective, and
    where the bound does not hold it back

        dJ_i = s_i A_i / |y_i| sum_t w_t dlog p(y_t).

    This is GSPO's "GSPO-token" form (GSPO paper, §4.3). With equal weights it has GSPO's own gradient; at s = 1 it is
    the policy gradient with each token corrected for having been drawn by another policy, as GRPO with the same weights
    has it. (Weighting the whole response by its mean weight would have the same value, and would move a token by the
    mean of the others' mismatch: that is what TRL's token-wise weights do under GSPO.) The ratio that is clipped stays
    that of the trained policy to itself before the update: a mismatch of engines never uses up the clipping range.

    Raises ValueError when a response has no token.
    """
    mine = documents >= 0
    response, count = documents[mine], len(advantages)
    new, old = logp[mine], old_logp[mine].detach()
    size = lengths(response, count, new)
    ratio = torch.exp(sums(new - old, response, count) / size)
    advantage = advantages.to(ratio.dtype)
    if weights is None:
        objective = clipped(ratio, advantage, clip_low, clip_high)
    else:
        tokens = ratio.detach()[response] * torch.exp(new - new.detach())
        parts = weights[mine].detach() * clipped(tokens, advantage[response], clip_low, clip_high)
        objective = sums(parts, response, count) / size
    return -objective.mean(), RatioStatistics.of(ratio.detach(), advantage, clip_low, clip_high)
