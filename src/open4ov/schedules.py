"""Learning-rate factors in [0, 1] over a training, by any measure of its course: steps, tokens."""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["cosine", "wsd", "constant"]


def factor(
    kind: Kind, after: float, size: float, total: float, warmup: float, decay: float = 0.0, floor: float = 0.0
) -> float:
    """The factor of the step that takes the course from `after - size` to `after` of `total`.

    It rises in a line over the share `warmup`. Then `cosine`: half a cosine down to `floor`. `wsd` (warm-up, stable,
    decay): 1, and over the last share `decay` a line down to `floor`. `constant`: 1. The last step is the one before
    the floor would be reached, so that it is not in vain; steps beyond `total` are as the last one.
    """
    after = min(after, total)
    rising = warmup * total
    if after < rising:
        return after / rising
    if kind == "constant":
        return 1.0
    start = rising if kind == "cosine" else max(rising, (1 - decay) * total)
    share = min(max((after - start) / max(total - start + size, size), 0.0), 1.0)
    return floor + (1 - floor) * (0.5 * (1 + math.cos(math.pi * share)) if kind == "cosine" else 1 - share)


def warmup_cosine(done: int, steps: int, warmup: float, floor: float = 0.0) -> float:
    """The factor of step `done` (from 0) of `steps`: linear over the share `warmup`, then half a cosine."""
    return factor("cosine", done + 1, 1, steps, warmup, floor=floor)
