"""The losses of online RL behind one interface: GSPO (the paper's), GRPO and DAPO (to compare with).

| `rl.loss` | ratio | bounds when `rl.clip_low`, `rl.clip_high` are empty | mean |
|---|---|---|---|
| `gspo` | of a response (eq. 12) | 3e-4, 4e-4 | over responses |
| `grpo` | of a token | 0.2, 0.2 | over responses, of the means over their tokens |
| `dapo` | of a token | 0.2, 0.28 | over all tokens of the batch |

None has a KL term. Every mean is over what is handed in. Who leaves groups out because all their advantages are zero,
or computes a batch in parts, weighs each part by its share of what the mean is over (`mean_over`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from open4ov.errors import nearest
from open4ov.rl import grpo, gspo
from open4ov.rl.clipping import RatioStatistics

__all__ = ["KINDS", "Clips", "RatioStatistics", "bounds", "loss", "mean_over"]

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, float, float, Tensor | None], tuple[Tensor, RatioStatistics]]
KINDS: dict[str, tuple[Loss, tuple[float, float]]] = {
    "gspo": (gspo.loss, gspo.CLIP),
    "grpo": (grpo.loss, grpo.CLIP),
    "dapo": (grpo.dapo, grpo.DAPO_CLIP),
}
"""Name -> the loss, and its own bounds"""


def mean_over(kind: str, responses: int, tokens: int) -> int:
    """What a loss divides by, for so many responses with so many tokens."""
    return tokens if kind == "dapo" else responses


class Clips(Protocol):
    """What a loss reads of the recipe's section `rl`."""

    @property
    def clip_low(self) -> float | None: ...

    @property
    def clip_high(self) -> float | None: ...


def loss(
    kind: str,
    logp: Tensor,
    old_logp: Tensor,
    response: Tensor,
    advantages: Tensor,
    section: Clips,
    weights: Tensor | None = None,
) -> tuple[Tensor, RatioStatistics]:
    """The loss of B responses with R tokens, and what it saw. Arguments as in `gspo.loss`.

    Raises ValueError for an unknown kind and for a response without tokens.
    """
    low, high = bounds(kind, section)
    return KINDS[kind][0](logp, old_logp, response, advantages, low, high, weights)


def bounds(kind: str, section: Clips) -> tuple[float, float]:
    """Lower and upper bound of the ratio's distance from 1: the section's, or the loss's own."""
    if kind not in KINDS:
        raise ValueError(f"rl.loss: no loss is called '{kind}'{nearest(kind, KINDS)}")
    low, high = KINDS[kind][1]
    return (low if section.clip_low is None else section.clip_low), (
        high if section.clip_high is None else section.clip_high
    )
