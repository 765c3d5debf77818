"""What ranks tell one another that is no tensor: figures, responses, grades.

It goes by pickle, among the processes of one training. A thread beside the main one needs a group of its own: in a
group the calls of all ranks must come in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from .mesh import Mesh

T = TypeVar("T")


def told(own: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """What every rank of the group (None: of the world) says, by rank."""
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, own, group)
    return found


def gathered(mesh: Mesh, own: Sequence[T]) -> list[T]:
    """What the ranks of `dp` have, one after another; of those that share a pack, the first that has something
    counts: of a pipeline only the last stage sees what an objective is given."""
    found: dict[int, Sequence[T]] = {}
    first = mesh.rank("seq") == 0
    for rank, has in told((mesh.rank("dp"), own if first else ())):
        if has and rank not in found:
            found[rank] = has
    return [one for rank in sorted(found) for one in found[rank]]
