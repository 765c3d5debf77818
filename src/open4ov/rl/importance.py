"""Truncated importance sampling (TIS): what another policy has sampled, corrected for the policy that is trained.

Responses may be drawn by weights of 8 bits, by another engine, or by the policy of a step earlier. Each token then
counts with

    w = min(p_old(y) / p_rollout(y), C)

detached, times the loss's clipped objective (FlashRL; `gspo.loss` says how that composes with a ratio of a whole
response). p_old: the trained policy before the update, at the temperature of the rollout, recomputed by the trainer;
p_rollout: what the engine gave with the response (`Completion.log_probs`), at the request's temperature. The cut at C
keeps a token that the rollout held for very unlikely from ruling the update; it is what biases the estimate.

Shapes: R tokens, B responses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from open4ov.rl.clipping import lengths, sums

CAP = 2.0
FURTHEST = 20.0
"""Nats that statistics look at: whoever is further apart counts as so far (a ratio of 5e8), so that they are numbers"""
When = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class MismatchStatistics:
    """How far rollout and training policy were apart, plain numbers; log-ratios, of tokens and of responses, are cut at
    `FURTHEST` nats."""

    weight: float  # mean of the truncated weights
    capped: float  # share of tokens whose ratio was above the cap
    product: float  # mean over responses of the product of their ratios: 1 in expectation, ruled by the largest
    geometric: float  # mean over responses of the geometric mean of their ratios
    gap: float  # mean of |log p_old - log p_rollout|: 0 where both are the same policy

    def figures(self) -> dict[str, float]:
        """For a journal or a curve, by name."""
        return {
            "tis_weight": round(self.weight, 6),
            "tis_capped": round(self.capped, 6),
            "tis_product": round(self.product, 6),
            "tis_geometric": round(self.geometric, 6),
            "tis_gap": round(self.gap, 6),
        }


def wanted(when: When, exact: bool) -> bool:
    """Whether rollouts are corrected: `auto` where they are not `exact` (`recipe_rl_rollout.exact`)."""
    return when == "always" or (when == "auto" and not exact)


def weights(old_logp: Tensor, rollout_logp: Tensor, cap: float = CAP) -> Tensor:
    """min(exp(old_logp - rollout_logp), cap) [R], without gradient. Both [R], in nats, at the same temperature.

    A token that the rollout held for impossible (log p of minus infinity) has the cap. Raises ValueError for other
    shapes, a cap that is not above 0, and for log-probabilities of the trained policy that are no numbers.
    """
    if cap <= 0:
        raise ValueError(f"the cap of importance weights must be above 0, not {cap}")
    return _gaps(old_logp, rollout_logp).exp().clamp(max=cap)


def statistics(
    old_logp: Tensor, rollout_logp: Tensor, response: Tensor, count: int, cap: float = CAP
) -> MismatchStatistics:
    """old_logp, rollout_logp [R]; response [R]: 0 .. B-1; count: B. Raises ValueError as `weights`, and when a response
    has no token."""
    gaps = _gaps(old_logp, rollout_logp).clamp(-FURTHEST, FURTHEST)
    ratios = gaps.exp()
    size = lengths(response, count, gaps)
    whole = sums(gaps, response, count)
    figures = (
        ratios.clamp(max=cap).mean(),
        (ratios > cap).double().mean(),
        whole.clamp(-FURTHEST, FURTHEST).exp().mean(),
        (whole / size).exp().mean(),
        gaps.abs().mean(),
    )
    told = torch.stack([figure.double() for figure in figures]).cpu()  # one wait for the device
    return MismatchStatistics(*map(float, told))


def together(
    parts: Sequence[MismatchStatistics], responses: Sequence[int], tokens: Sequence[int]
) -> MismatchStatistics:
    """The statistics of all parts as if they had been one, with so many responses and tokens each."""

    def mean(values: Iterable[float], counts: Sequence[int]) -> float:
        return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)

    return MismatchStatistics(
        weight=mean((one.weight for one in parts), tokens),
        capped=mean((one.capped for one in parts), tokens),
        product=mean((one.product for one in parts), responses),
        geometric=mean((one.geometric for one in parts), responses),
        gap=mean((one.gap for one in parts), tokens),
    )


@torch.no_grad()
def _gaps(old_logp: Tensor, rollout_logp: Tensor) -> Tensor:
    if old_logp.shape != rollout_logp.shape or old_logp.ndim != 1:
        raise ValueError(
            f"expected log-probabilities [R] of the same tokens, got {list(old_logp.shape)} and "
            f"{list(rollout_logp.shape)}"
        )
    gaps = old_logp.detach() - rollout_logp.detach().to(old_logp)
    if bool(gaps.isnan().any()) or not bool(old_logp.isfinite().all()):
        raise ValueError("log-probabilities that are no numbers cannot be weighed against each other")
    return gaps
