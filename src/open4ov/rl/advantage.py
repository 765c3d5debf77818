"""Advantages of the responses of one group (paper §4.2.2, eq. 3-6 and 9).

A group is the N responses sampled for one prompt. Every function takes the rewards of one group, [N], and gives the
advantages of its responses, [N], in float64: groups are small, and sums that should be zero then are.
"""

from __future__ import annotations

from math import comb, sqrt

import torch
from torch import Tensor


class RewardError(ValueError):
    """Rewards that an advantage is not defined for."""


def pass_at_k(rewards: Tensor, k: int) -> Tensor:
    """Analytic Pass@k advantages of N responses with rewards in {0, 1} (paper eq. 3-6, corrected).

    Every one of the C(N, k) subsets of k responses is scored by its best reward; the scores are standardised over the
    subsets, and a response gets the mean over the subsets that hold it. With p right and m = N - p wrong responses,
    R = 1 - C(m,k)/C(N,k) and s = sqrt(R(1-R)):

        right  (1 - R) / s
        wrong  (1 - R - q) / s,   q = C(m-1,k-1) / C(N-1,k-1): the chance that its subset is all wrong.

    The paper's eq. (6) gives +R/s for a wrong response: it lost its minus sign and is the advantage of an all-wrong
    *subset*, not of a response. The original method (Chen et al. 2025) is followed here. k = 1 is GRPO: rewards less
    their mean, by their population standard deviation. All zero when p = 0 or m < k (s = 0): such a group teaches
    nothing.

    Raises ValueError for rewards other than 0 and 1 (they would silently become their own advantage in the original
    code) or not finite, for an empty group, and for k outside 1..N.
    """
    values = _one_group(rewards)
    count = len(values)
    right = values == 1
    if not bool((right | (values == 0)).all()):
        raise RewardError(f"pass_at_k needs rewards of 0 or 1, got {sorted(set(values.tolist()))}")
    if not 1 <= k <= count:
        raise ValueError(f"pass_at_k needs k from 1 to {count}, the responses of the group, got {k}")
    wrong = count - int(right.sum())
    if wrong == count or wrong < k:
        return torch.zeros_like(values)
    reward = 1 - comb(wrong, k) / comb(count, k)
    spread = sqrt(reward * (1 - reward))
    all_wrong = comb(wrong - 1, k - 1) / comb(count - 1, k - 1)
    positive = torch.full_like(values, (1 - reward) / spread)
    return torch.where(right, positive, torch.full_like(values, (1 - reward - all_wrong) / spread))


def gap(group: int, right: int, k: int) -> float:
    """How far a right response is above a wrong one in Pass@k's advantages, q / s; 0 for a dead group.

    Length may move two responses by its weight against each other: it changes the order of right and wrong only where
    that weight is larger than the gap.
    """
    if not 0 < right < group or group - right < k:
        return 0.0
    values = pass_at_k(torch.tensor([1.0] * right + [0.0] * (group - right)), k)
    return float(values[0] - values[-1])


def diversity(rewards: Tensor) -> Tensor:
    """Diversity-weighted advantages (eq. 9): the rewards of eq. 8 less their mean, not divided by their spread.

    All zero for a single response. Raises RewardError for rewards that are not finite.
    """
    values = _one_group(rewards)
    centred = values - values.mean()
    return torch.where(centred.abs() < 1e-12, torch.zeros_like(centred), centred)


def centred_length(length_rewards: Tensor, weight: float) -> Tensor:
    """The length channel: `weight` times the length rewards (eq. 10) less their group mean.

    The paper does not say how length and correctness combine. Here they are separate channels that are added as
    advantages, so that a length penalty never turns a right answer into a "wrong" one for Pass@k.
    """
    return weight * diversity(length_rewards)


def dead(advantages: Tensor) -> bool:
    """Whether a group teaches nothing: every advantage is zero (not the same as all right or all wrong).

    Raises RewardError for advantages that are not finite: they would teach nonsense, which is not the same as nothing.
    """
    if not bool(torch.isfinite(advantages).all()):
        raise RewardError(f"advantages must be finite, got {advantages.tolist()}")
    return not bool(advantages.any())


def _one_group(rewards: Tensor) -> Tensor:
    if rewards.dim() != 1 or len(rewards) == 0:
        raise ValueError(f"expected the rewards of one group, shape [N], got {list(rewards.shape)}")
    values = rewards.detach().to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise RewardError(f"the rewards of one group must be finite, got {values.tolist()}")
    return values
