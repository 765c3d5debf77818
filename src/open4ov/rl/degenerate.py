"""Responses that have become a loop or noise: stopped while they are generated, and kept out of what is learnt.

The engine stops them and says so (`engine/degeneration.py`; finish reason "repetition" or "garbled"). A degenerate
response counts as wrong, whatever the verifier finds in it: an answer in front of endless repetition is nothing to be
learnt from. Nor may it be better than its group by another channel (it is short, or unlike the others): its advantage
is never above zero. Below zero it stays as it is: it is unlearnt like any wrong response.

Shapes: N responses of a group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from open4ov.engine import Completion
from open4ov.engine.degeneration import REASONS, Degeneration
from open4ov.recipe_rl_rollout import RolloutSection

LEAST = 24
"""Tokens of a loop at least; a table or a list repeats itself for a while, too"""


def watch(section: RolloutSection, max_tokens: int) -> Degeneration | None:
    """What the engine is to look for in responses of at most so many tokens; None when it is not to look.

    The defaults of `Degeneration` are made for long answers (96 tokens of repetition). Half of the longest response is
    enough here, so that in short ones a loop is noticed before they end by their length.
    """
    if not section.stop_loops:
        return None
    usual = Degeneration()
    return Degeneration(repeated=min(usual.repeated, max(LEAST, max_tokens // 2)))


def mask(completions: Sequence[Completion]) -> Tensor:
    """True for the degenerate ones, bool [N]."""
    return torch.tensor([one.finish_reason in REASONS for one in completions], dtype=torch.bool)


def signal(completions: Sequence[Completion], correct: Tensor) -> Tensor:
    """`correct` [N] with 0 for degenerate responses; the others' as they are. Of the same type, not in place."""
    return correct.masked_fill(_own(completions, correct), 0)


def held_down(completions: Sequence[Completion], advantages: Tensor) -> Tensor:
    """`advantages` [N], those of degenerate responses at most 0. Not in place.

    After it a group's advantages may sum to less than zero. That is meant: sharing the rest out would raise others for
    no merit of theirs. Responses that are all degenerate have equal channels but for length, and then at most unlearn.
    """
    return torch.where(_own(completions, advantages), advantages.clamp(max=0), advantages)


def _own(completions: Sequence[Completion], values: Tensor) -> Tensor:
    if values.shape != (len(completions),):
        raise ValueError(f"expected a value for each of {len(completions)} responses, got {list(values.shape)}")
    return mask(completions).to(values.device)
