"""Consistent hashing: which node a key belongs to. Adding or removing one of n nodes moves about 1/n of the keys.

Each node stands at many points of a ring of 2^64 places; a key belongs to the nodes in the order in which they are met
from its own place on. Loads are bounded: a node that has far more under way than the others is passed over, so one hot
key cannot drown it (consistent hashing with bounded loads, Mirrokni et al. 2018).
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping

POINTS = 128
"""Places of a node on the ring; a node's share of the keys varies by about 1 / sqrt(POINTS)"""
FACTOR = 1.25
"""A node may have this times the mean of what is under way"""
FREE = 8
"""What a node may always have under way, whatever the mean: a batch that costs its members little"""


class Ring:
    """The ring of these nodes' names; their order does not matter."""

    def __init__(self, nodes: Iterable[str], points: int = POINTS) -> None:
        self.nodes = sorted(set(nodes))
        stands = sorted((_place(f"{node} {point}".encode()), node) for node in self.nodes for point in range(points))
        self._places = [place for place, _ in stands]
        self._owners = [node for _, node in stands]

    def order(self, key: bytes) -> list[str]:
        """All nodes, once each, as they are met from the key's place on: the first is the key's own."""
        start = bisect_right(self._places, _place(key))
        found: dict[str, None] = {}
        for owner in (*self._owners[start:], *self._owners[:start]):
            found[owner] = None
            if len(found) == len(self.nodes):
                break
        return list(found)

    def bounded(self, key: bytes, loads: Mapping[str, int]) -> list[str]:
        """The nodes that can be asked, best first: those under the bound in the ring's order, then the others in it.

        `loads`: requests under way, of the nodes that can be asked only.
        """
        if not loads:
            return []
        bound = max(FREE, math.ceil(FACTOR * (sum(loads.values()) + 1) / len(loads)))
        return sorted((node for node in self.order(key) if node in loads), key=lambda node: loads[node] >= bound)


def _place(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest())
