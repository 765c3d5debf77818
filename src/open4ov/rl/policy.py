"""The policy: a whole model in this process, or one that lies on many (`parallel.Parallel`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from open4ov.model import Config, Encoded, Qwen3VL

if TYPE_CHECKING:
    from open4ov.parallel.model import Parallel  # brings much in

Policy: TypeAlias = "Qwen3VL | Parallel"


def cost(config: Config, prompt: Encoded, responses: Sequence[int], frozen_vision: bool) -> float:
    """Operations of a forward and a backward pass over a prompt and its responses of so many tokens, which share it.
    Features of a frozen tower's pictures are there."""
    from open4ov.parallel.data import cost_of  # where there are many processes

    grids = [(int(f), int(r), int(c)) for f, r, c in prompt.grids.tolist()]
    own = [length for length in responses if length]
    across = len(prompt) * sum(own)
    lengths = [len(prompt), *own]
    vision = {"frozen_vision": frozen_vision, "cached_vision": frozen_vision}
    return cost_of(config, lengths, grids, sum(own), across, **vision)
