"""The losses of online RL behind one interface."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from open4ov.rl import gspo
from open4ov.rl.gspo import Statistics

__all__ = ["Clips", "Statistics", "loss"]


class Clips(Protocol):
    """What a loss reads of the recipe's section `rl`."""

    @property
    def clip_low(self) -> float: ...

    @property
    def clip_high(self) -> float: ...


def loss(
    kind: str,
    logp: Tensor,
    old_logp: Tensor,
    response: Tensor,
    advantages: Tensor,
    section: Clips,
    weights: Tensor | None = None,
) -> tuple[Tensor, Statistics]:
    """The loss of B responses with R tokens, and what it saw. Arguments as in `gspo.loss`."""
    assert (kind, weights) == ("gspo", None)
    return gspo.loss(logp, old_logp, response, advantages, section.clip_low, section.clip_high)
