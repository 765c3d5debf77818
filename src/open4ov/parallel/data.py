"""Which dp rank computes which packs of a step: as many on each, and as equal as the packs allow.

FSDP keeps the ranks in step: each waits in every pass for the slowest. So packs of about the same cost are computed at
the same time, and the costliest of them by the rank that has done the least so far. A pass costs what its matrix
products do (`model/flops.py`), pictures and the square of long documents counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from open4ov.model import Config, Pack
from open4ov.model.flops import count

Share = list[int | None]
"""The packs of a rank in the order of its passes, by their numbers in the step; None: a pass that only keeps in step"""


def cost(config: Config, pack: Pack, frozen_vision: bool = False, cached_vision: bool = False) -> float:
    """Floating-point operations of a forward and a backward pass over the pack."""
    return cost_of(
        config,
        pack.lengths.tolist(),
        [(int(t), int(h), int(w)) for t, h, w in pack.grids.tolist()],
        len(pack.predicted),
        sum(prefix.tokens * sum(prefix.own) for prefix in pack.prefixes),
        frozen_vision=frozen_vision,
        cached_vision=cached_vision,
    )


def cost_of(
    config: Config,
    lengths: Sequence[int],
    grids: Sequence[tuple[int, int, int]],
    predicted: int,
    across: int = 0,
    *,
    frozen_vision: bool = False,
    cached_vision: bool = False,
) -> float:
    """As `cost`, of a pack that is not made yet; the arguments are those of `flops.count`."""
    return count(config, lengths, grids, predicted, across).training(frozen_vision, cached_vision)


def share(costs: Sequence[float], ranks: int) -> list[Share]:
    """The packs of a step, by their costs, shared out: each to one rank, and as many passes on each.

    What the ranks take together, each pass as long as its costliest pack, is the least that is possible in so few
    passes, and at most the mean of the ranks plus one pack, the costliest. Nor do the sums of two ranks differ by more
    than that pack. Equal costs always give equal shares.
    """
    order = sorted(range(len(costs)), key=lambda number: (-costs[number], number))
    shares: list[Share] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for first in range(0, len(order), ranks):
        together: list[int | None] = [*order[first : first + ranks]]
        together += [None] * (ranks - len(together))
        for rank, number in zip(sorted(range(ranks), key=lambda rank: (sums[rank], rank)), together, strict=True):
            shares[rank].append(number)
            sums[rank] += 0.0 if number is None else costs[number]
    return shares


def filler(config: Config, device: torch.device | str = "cpu") -> Pack:
    """A pack for a pass that only keeps in step: one document of two tokens, no picture, no target."""
    pixels = torch.zeros(0, config.vision.patch_dim)
    nothing = torch.zeros(0, 3, dtype=torch.long)
    return Pack(
        input_ids=torch.zeros(2, dtype=torch.long),
        positions=torch.arange(2).expand(3, 2).clone(),
        cu_seqlens=torch.tensor([0, 2]),
        targets=torch.zeros(2, dtype=torch.bool),
        pixels=pixels,
        grids=nothing,
        names=("",),
        images=(0,),
    ).to(device)
