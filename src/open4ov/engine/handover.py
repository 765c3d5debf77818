"""A prompt's keys and values out of one engine's blocks and into another's.

The receiver names what it takes over by keys that it works out itself, from the request it is going to answer; then the
scheduler finds it like any other beginning that was computed before. There is no other way in.

Shapes: L layers, n tokens, K key-value heads, d head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from open4ov.engine.paged import KVStore
from open4ov.engine.scheduler import Scheduler
from open4ov.engine.sequence import Prompt, Sequence


class Handover:
    """Over the blocks of one engine. Only the thread that steps the engine may call it, except for `held`."""

    def __init__(self, scheduler: Scheduler, store: KVStore) -> None:
        self.scheduler, self.pool, self.store = scheduler, scheduler.pool, store

    def shape(self, prompt: Prompt, start: int) -> tuple[int, ...]:
        """Of the keys, and of the values, of the prompt's tokens from `start` on: [L, n, K, d]."""
        layers, _, heads, d = self.store.keys.shape
        return layers, len(prompt.token_ids) - start, heads, d

    def held(self, prompt: Prompt) -> int:
        """How many of the prompt's tokens would be found now: whole blocks, or all. Another thread may ask too, and
        gets what was true a moment ago."""
        found, size = 0, self.pool.size
        names = self._names(prompt)
        while found < len(names) and self.pool.holds(names[found]):
            found += 1
        return len(prompt.token_ids) if found == len(names) else found * size

    @torch.inference_mode()
    def give(self, prompt: Prompt, start: int) -> tuple[Tensor, Tensor] | None:
        """Copies of the keys and values [L, n, K, d] of the prompt's tokens from `start` on, on the CPU; None when they
        are not all in the blocks."""
        one, names = self._sequence(prompt), self._names(prompt)
        try:
            for name in names:
                if (block := self.pool.share(name)) is None:
                    return None
                one.blocks.append(block)
            slots = self.store.slots(one, start, len(prompt.token_ids)).to(self.store.keys.device)
            return self.store.keys[:, slots].cpu(), self.store.values[:, slots].cpu()
        finally:
            self.pool.release(one.blocks)

    @torch.inference_mode()
    def take(self, prompt: Prompt, start: int, keys: Tensor, values: Tensor) -> bool:
        """Takes over keys and values [L, n, K, d] of the prompt's tokens from `start` on. False when there are no
        blocks for them, or what comes before `start` is no longer there.

        Raises ValueError for tensors of another shape or type than this engine's own.
        """
        wanted, dtype = self.shape(prompt, start), self.store.keys.dtype
        for given in (keys, values):
            if tuple(given.shape) != wanted or given.dtype != dtype:
                raise ValueError(
                    f"keys and values must be {dtype} {list(wanted)}, not {given.dtype} {list(given.shape)}"
                )
        size, names, one = self.pool.size, self._names(prompt), self._sequence(prompt)
        new: list[int] = []
        try:
            for place, name in enumerate(names):
                block = self.pool.share(name)
                if block is None:
                    if place < start // size or not self.pool.available:
                        return False
                    block = self.pool.take()
                    new.append(place)
                one.blocks.append(block)
            for place in new:
                first, last = place * size, min((place + 1) * size, len(prompt.token_ids))
                slots = self.store.slots(one, first, last).to(self.store.keys.device)
                for store, given in ((self.store.keys, keys), (self.store.values, values)):
                    store[:, slots] = given[:, first - start : last - start].to(store.device)
                self.pool.name(one.blocks[place], names[place])
            return True
        finally:
            self.pool.release(one.blocks)

    def _sequence(self, prompt: Prompt) -> Sequence:
        return Sequence.begin(-1, 0, prompt)

    def _names(self, prompt: Prompt) -> list[bytes]:
        """Of the blocks that hold the prompt: whole ones, and the one of its last tokens."""
        one, size = self._sequence(prompt), self.pool.size
        end = self.scheduler.end(one)
        return [*one.keys[: (len(prompt.token_ids) - 1) // size], end]
