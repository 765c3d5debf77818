"""The pictures of a pack are shared out to the ranks that share its tokens (cp x tp): each encodes some, and all
get the features of all, DeepStack's taps with them.

The tower's gradient on a rank is of the pictures that it has encoded: a share, as that of everything else that the
ranks hold alike.

Shapes: R ranks, M merged tokens of all pictures, m most merged tokens of a rank, O hidden of the decoder, t taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from open4ov.model import Config, VisionFeatures
from open4ov.model.config import VisionConfig
from open4ov.model.flops import count
from open4ov.model.vision import VisionModel
from open4ov.parallel.collectives import all_gather

Grid = tuple[int, int, int]


def share(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Pictures by their costs -> those of each rank, in their order: the costliest first, each to the rank with the
    least so far. The rank with the most has at most 4/3 - 1/(3 ranks) times what the best sharing would give it."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for number in sorted(range(len(costs)), key=lambda number: (-costs[number], number)):
        rank = min(range(ranks), key=lambda rank: (sums[rank], rank))
        shares[rank].append(number)
        sums[rank] += costs[number]
    return [sorted(own) for own in shares]


def apply(vision: VisionModel, config: Config, group: ProcessGroup | None) -> None:
    """The tower encodes for the group from now on: all of its ranks call it together, with the same pictures."""
    if group is None:
        return
    vision.__class__ = SharedVision
    vision.shape, vision.group = config, group  # pyright: ignore[reportArgumentType]


class SharedVision(VisionModel):
    """A vision tower whose pictures are shared out. A rank that gets none encodes the smallest one there is, without
    effect: where the tower is sharded, none may be missing."""

    group: ProcessGroup
    shape: Config

    def forward(self, pixels: Tensor, grids: Tensor) -> VisionFeatures:
        """See VisionModel; every rank of the group gets the features of all pictures."""
        merge, ranks = self.config.spatial_merge_size, self.group.size()
        sizes: list[Grid] = [(int(t), int(h), int(w)) for t, h, w in grids.tolist()]
        shares = share([_cost(self.shape, size) for size in sizes], ranks)
        patches = grids.prod(1).tolist()
        mine = shares[self.group.rank()]
        if mine:
            parts = pixels.split(patches)
            own = super().forward(torch.cat([parts[number] for number in mine]), grids[mine])
        else:
            own = super().forward(*_smallest(self.config, pixels))
        tokens = [int(n) // merge**2 for n in patches]
        most = max(sum(tokens[number] for number in numbers) for numbers in shares)
        together = torch.cat([own.merged, *own.deepstack], dim=1)  # [n, (1 + t) O]
        if not mine:
            together = together.sum(0, keepdim=True) * 0.0
        sent = F.pad(together, (0, 0, 0, most - len(together)))
        got = all_gather(sent, self.group)  # [R m, (1 + t) O]
        order = _places(tuple(map(tuple, shares)), tuple(tokens), most).to(got.device)
        parts = got.index_select(0, order).chunk(1 + len(own.deepstack), dim=1)
        merged, *taps = (part.contiguous() for part in parts)  # FSDP wants no views
        return VisionFeatures(merged, taps)


@lru_cache(maxsize=4096)
def _cost(config: Config, size: Grid) -> float:
    return count(config, [], [size]).vision


@lru_cache(maxsize=64)
def _places(shares: tuple[tuple[int, ...], ...], tokens: tuple[int, ...], most: int) -> Tensor:
    """Long [M]: where the tokens of the pictures, in their order, lie among what was gathered."""
    spans: dict[int, Tensor] = {}
    for rank, numbers in enumerate(shares):
        at = rank * most
        for number in numbers:
            spans[number] = torch.arange(at, at + tokens[number])
            at += tokens[number]
    return torch.cat([spans[number] for number in range(len(tokens))])


def _smallest(config: VisionConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    merge = config.spatial_merge_size
    return like.new_zeros(merge**2, config.patch_dim), torch.tensor([[1, merge, merge]])
