"""Blocks of the KV cache: who uses which, and what the unused ones still hold, so that equal prefixes are found again.

A block holds keys and values of `size` tokens. Its name is a digest of all that these depend on: the tokens in it and
before it, the pictures they stand for, and what the root of the chain holds (weights, processor options, salt).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

Key = bytes


def root_key(*parts: object) -> Key:
    """The beginning of a chain of names: what all keys and values depend on besides tokens and pictures."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def block_key(parent: Key, tokens: Sequence[int], seen: str = "") -> Key:
    """The name of a block after `parent` (or of the beginning of one) with `tokens`; `seen` names its pictures."""
    digest = hashlib.blake2b(parent, digest_size=16)
    digest.update(array("q", tokens).tobytes())
    digest.update(seen.encode())
    return digest.digest()


class BlockPool:
    """`count` blocks of `size` tokens, by number. No tensors here: see `paged.KVStore`."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._users = [0] * count
        self._names: list[list[Key]] = [[] for _ in range(count)]
        self._by_key: dict[Key, int] = {}
        self._unused = OrderedDict.fromkeys(range(count))
        """In the order in which they are taken: those that hold nothing first, then those unused for longest."""

    @property
    def available(self) -> int:
        return len(self._unused)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold that many tokens."""
        return -(-tokens // self.size)

    def take(self) -> int:
        """An unused block, whose content is forgotten. At least one must be available."""
        assert self._unused, "no block is available"
        block, _ = self._unused.popitem(last=False)
        self._forget(block)
        self._users[block] = 1
        return block

    def holds(self, key: Key) -> bool:
        """Whether there is a block of that name."""
        return key in self._by_key

    def share(self, key: Key) -> int | None:
        """The block of that name, with one more user; None when there is none."""
        block = self._by_key.get(key)
        if block is not None:
            self._unused.pop(block, None)
            self._users[block] += 1
        return block

    def name(self, block: int, key: Key) -> None:
        """From now on the block can be found by `key` (the first block of a name keeps it)."""
        if self._by_key.setdefault(key, block) == block and key not in self._names[block]:
            self._names[block].append(key)

    def release(self, blocks: Sequence[int]) -> None:
        """One user less of each. What nobody uses any more stays to be found until it is taken; a prefix outlives what
        comes after it."""
        for block in reversed(blocks):
            self._users[block] -= 1
            assert self._users[block] >= 0, f"block {block} was released more often than taken"
            if not self._users[block]:
                self._unused[block] = None
                if not self._names[block]:
                    self._unused.move_to_end(block, last=False)

    def forget(self) -> None:
        """No block can be found any more: what they hold is of other weights."""
        for block in range(self.count):
            self._forget(block)

    def _forget(self, block: int) -> None:
        for key in self._names[block]:
            del self._by_key[key]
        self._names[block] = []
