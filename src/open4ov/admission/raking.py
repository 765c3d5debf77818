"""Weights that bring the shares of labels on several axes to their targets at once: raking, with an upper bound.

Samples with the same labels form a cell. Every step scales all cells by (target / now) of their labels, by the 1/A-th
power over A axes, and cuts them at their bounds: simultaneous multiplicative updates (SMART), which is mirror descent
on the divergence of Kullback and Leibler between the sums that labels have and those that they should have. Where the
targets can be met it goes to what iterative proportional fitting (Deming and Stephan 1940) goes to: of all weights that
meet them those nearest to what is there. Where they cannot be met, alternating over the axes would go round for ever;
this goes to the sums nearest to the targets.

Shapes: C cells, J labels of all axes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS = 20_000
CLOSE = 1e-8
"""Greatest change of a cell, of all that there is, at which raking ends"""


def rake(sizes: Floats, members: Floats, targets: Floats, bounds: Floats, axes: int) -> Floats:
    """How much each cell should have [C].

    `sizes` [C]: what it has; `members` [C, J]: which part of it counts for a label, summing to 1 on each axis;
    `targets` [J]: what the labels should have, of one sum on each axis; `bounds` [C]: the most that a cell can have. A
    cell with a label whose target is 0 gets nothing.
    """
    total = targets.sum() / axes
    barred = (members[:, targets <= 0] > 0).any(axis=1)
    found = np.where(barred, 0.0, np.minimum(bounds, sizes * (total / max(1e-12, sizes.sum()))))
    wanted = targets > 0
    inside, goal = members[:, wanted], targets[wanted]
    for _ in range(STEPS):
        now = inside.T @ found
        step = np.log(np.divide(goal, now, out=np.ones_like(goal), where=now > 0))
        new = np.minimum(bounds, found * np.exp(inside @ step / axes))
        change = np.abs(new - found).max(initial=0.0)
        found = new
        if change <= CLOSE * max(1.0, total):
            break
    return found
