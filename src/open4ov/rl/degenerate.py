"""Responses that have become a loop or noise: stopped while they are generated, and kept out of what is learnt.

The engine stops them and says so (`engine/degeneration.py`; finish reason "repetition" or "garbled"). A degenerate
response counts as wrong, whatever the verifier finds in it: an answer in front of endless repetition is nothing to be
learnt from. Nor may it be better than its group by another channel (it is short, or unlike the others): it has the
lowest length reward, so that its advantage is never above zero (`rewards.combine`).

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
