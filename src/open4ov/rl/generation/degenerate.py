"""Responses that have become a loop or noise are stopped while they are generated.

The engine stops them and says so (`engine/degeneration.py`; finish reason "repetition" or "garbled"). What such a
response then counts for, nothing good, is where the channels of a reward become an advantage (`rewards.py`).
"""

from __future__ import annotations

from open4ov.engine.degeneration import Degeneration
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
