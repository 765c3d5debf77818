"""Keys and values in blocks, and attention over them: the engine's memory of what its sequences have seen.

Blocks are the truth: every key and value is written there. Sequences that decode also have a row each in a dense copy
(`Rows`), which grows by one token a step: on a CPU, gathering every context anew for every token would cost more than
the attention itself. Prompts that continue (in pieces, or after a prefix that was found) are gathered from the blocks.

Shapes: T tokens of a step, B sequences, S tokens seen, H heads, K key-value heads, d head dim.
"""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch
import torch.nn.functional as F
from torch import Tensor

from open4ov.engine.sequence import Chunk, Sequence
from open4ov.model import attention
from open4ov.model.attention import Documents
from open4ov.model.config import TextConfig

GROW, GROW_GPU = 32, 256
"""A row's room is a multiple of this many tokens; on a GPU of more, as every room takes plans and graphs of its own."""


class KVStore:
    """The tensors behind a `BlockPool`: `keys`, `values` [layers, blocks * size + 1, K, d]. The last slot (`spare`)
    belongs to no block: what nobody reads is written there."""

    def __init__(self, config: TextConfig, blocks: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (config.num_hidden_layers, blocks * size + 1, config.num_key_value_heads, config.head_dim)
        self.size, self.spare = size, blocks * size
        self.keys, self.values = (torch.zeros(self.shape, dtype=dtype, device=device) for _ in range(2))

    def release(self) -> None:
        """Frees the memory; what was held is lost. `reserve` takes it again."""
        layers, _, heads, d = self.shape
        self.keys, self.values = (part.new_zeros(layers, 0, heads, d) for part in (self.keys, self.values))

    def reserve(self) -> None:
        """Takes the memory that `release` has freed; nothing happens when it is there."""
        if not self.keys.shape[1]:
            self.keys, self.values = (part.new_zeros(self.shape) for part in (self.keys, self.values))

    def copy(self, pairs: Many[tuple[int, int]]) -> None:
        """Copies whole blocks: (from, to), one after another."""
        for source, target in pairs:
            old, new = (slice(block * self.size, (block + 1) * self.size) for block in (source, target))
            for store in (self.keys, self.values):
                store[:, new] = store[:, old]

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [T, K, d] into the slots [T] of a layer; gives them in the type that they are held in."""
        keys, values = self.keys[layer], self.values[layer]
        k, v = k.to(keys.dtype), v.to(values.dtype)
        keys.index_copy_(0, slots, k)
        values.index_copy_(0, slots, v)
        return k, v

    def slots(self, sequence: Sequence, start: int, end: int) -> Tensor:
        """Where the tokens start .. end - 1 of a sequence lie: Long [end - start]."""
        first, last = start // self.size, -(-end // self.size)
        blocks = torch.tensor(sequence.blocks[first:last])
        table = (blocks[:, None] * self.size + torch.arange(self.size)).flatten()
        return table[start - first * self.size : end - first * self.size]


class Rows:
    """The dense copy: row r of `keys`, `values` [layers, rows, K, room, d] holds what `sequences[r]` has computed. Used
    rows come first: the last one moves into the place of one that leaves. Heads before tokens: so a product over all
    rows and heads takes them as they lie."""

    def __init__(self, store: KVStore) -> None:
        self.store, self.grow = store, GROW_GPU if store.keys.is_cuda else GROW
        self.sequences: list[Sequence] = []
        self.taken = 0
        """How often memory was taken: what was recorded of an earlier one is of no use"""
        self._clear()

    def _clear(self) -> None:
        layers, _, heads, d = self.store.keys.shape
        self.keys, self.values = (self.store.keys.new_zeros(layers, 0, heads, 0, d) for _ in range(2))
        self.taken += 1

    def enter(self, sequences: Many[Sequence]) -> None:
        """Gives each a row, filled from its blocks."""
        if not sequences:
            return
        first = len(self.sequences)
        self.sequences += sequences
        self.reserve()
        for row, sequence in enumerate(sequences, start=first):
            slots = self.store.slots(sequence, 0, sequence.computed).to(self.keys.device)
            for mine, theirs in ((self.keys, self.store.keys), (self.values, self.store.values)):
                mine[:, row, :, : sequence.computed] = theirs[:, slots].transpose(1, 2)

    @torch.inference_mode()
    def leave(self, sequence: Sequence) -> None:
        """Frees its row, if it has one."""
        if sequence not in self.sequences:
            return
        row, last = self.sequences.index(sequence), len(self.sequences) - 1
        moved = self.sequences.pop()
        if not self.sequences:
            self._clear()
        elif row != last:
            self.sequences[row] = moved
            for store in (self.keys, self.values):
                store[:, row, :, : moved.computed] = store[:, last, :, : moved.computed]

    def reserve(self) -> None:
        """Makes room for every row's next token."""
        rows, room = len(self.sequences), max(sequence.computed for sequence in self.sequences) + 1
        layers, old_rows, heads, old_room, d = self.keys.shape
        if rows <= old_rows and room <= old_room:
            return
        rows = old_rows if rows <= old_rows else max(rows, 2 * old_rows)
        room = max(-(-room // self.grow) * self.grow, old_room)
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_zeros(layers, rows, heads, room, d)
            new[:, :old_rows, :, :old_room] = old
            setattr(self, name, new)
        self.taken += 1


class OneMore:
    """A token more in each of the first B rows, of which row r holds `held[r]`: Long [B]. Attention sees `width` tokens
    of a row at most. Nothing here waits for a GPU."""

    def __init__(self, rows: Rows, held: Tensor, width: int) -> None:
        self.rows, self.held, self.width = rows, held, width
        count, device = len(held), held.device
        seen = (torch.arange(width, device=device) <= held[:, None])[:, None, None]
        # a GPU gets what is added to scores: of what may be seen it would make that anew in every layer
        self.mask = (
            seen.new_zeros(seen.shape, dtype=rows.keys.dtype).masked_fill_(~seen, -torch.inf) if held.is_cuda else seen
        )
        self.row = torch.arange(count, device=device)
        self.documents = Documents(torch.arange(count + 1, device=device), self.row[:, None], self.row, None, None)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, H, d], k and v [B, K, d] of the new tokens -> [B, H * d]."""
        parts: list[Tensor] = []
        for store, new in ((self.rows.keys[layer], k), (self.rows.values[layer], v)):
            store[self.row, :, self.held] = new
            parts.append(store[: len(q), :, : self.width].to(q.dtype))
        return attention.cached(q, parts[0], parts[1], self.mask, self.documents)


class StepMemory:
    """The memory of one step (`model.Memory`). Its tokens come as: one for every row of `rows` (or none at all), then
    the chunks that begin a sequence, then those that continue one. `kernel`: what attends in those that begin."""

    def __init__(
        self,
        store: KVStore,
        rows: Rows,
        decoding: bool,
        fresh: Many[Chunk],
        continued: Many[Chunk],
        kernel: str = "auto",
    ) -> None:
        self.store, self.rows, self.kernel = store, rows, kernel
        device = store.keys.device
        decoded = [Chunk(sequence, 1) for sequence in rows.sequences] if decoding else []
        self.ends = [len(decoded), len(decoded) + sum(chunk.count for chunk in fresh)]
        size = store.size
        slots = [chunk.sequence.slot(chunk.sequence.computed, size) for chunk in decoded]
        for chunk in (*fresh, *continued):
            start = chunk.sequence.computed
            slots += [chunk.sequence.slot(token, size) for token in range(start, start + chunk.count)]
        self.slots = torch.tensor(slots, device=device)
        if decoded:
            rows.reserve()
            held = [chunk.sequence.computed for chunk in decoded]
            # a GPU gets the rows' whole room: cuDNN plans anew, for milliseconds, at every new length
            width = rows.keys.shape[3] if device.type == "cuda" else max(held) + 1
            self.one_more = OneMore(rows, torch.tensor(held, device=device), width)
        if fresh:
            self.fresh_documents = Documents.of(_borders(fresh).to(device))
        if continued:
            self.continued_documents = Documents.of(_borders(continued).to(device))
            self._see_before(continued, device)

    def _see_before(self, continued: Many[Chunk], device: torch.device) -> None:
        """Where each continued chunk's context lies [B, S], and what its tokens may look at [B, 1, L, S]."""
        ends = [chunk.sequence.computed + chunk.count for chunk in continued]
        tables = [self.store.slots(chunk.sequence, 0, end) for chunk, end in zip(continued, ends, strict=True)]
        longest = max(ends)
        self.context = torch.stack([F.pad(table, (0, longest - len(table))) for table in tables]).to(device)
        starts = torch.tensor([chunk.sequence.computed for chunk in continued], device=device)
        width = self.continued_documents.pad.shape[1]
        query = starts[:, None] + torch.arange(width, device=device)
        self.context_mask = (torch.arange(longest, device=device) <= query[..., None])[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = self.store.write(layer, self.slots, k, v)
        decoded, begun = self.ends
        out: list[Tensor] = []
        if decoded:
            out.append(self.one_more.attend(layer, q[:decoded], k[:decoded], v[:decoded]))
        if begun > decoded:
            part = slice(decoded, begun)
            own_k, own_v = k[part].to(q.dtype), v[part].to(q.dtype)
            out.append(attention.attend(q[part], own_k, own_v, self.fresh_documents, True, self.kernel))
        if len(q) > begun:
            stores = (self.store.keys[layer], self.store.values[layer])
            before, told = (store[self.context].transpose(1, 2).to(q.dtype) for store in stores)
            out.append(attention.cached(q[begun:], before, told, self.context_mask, self.continued_documents))
        return out[0] if len(out) == 1 else torch.cat(out)


def _borders(chunks: Many[Chunk]) -> Tensor:
    return F.pad(torch.tensor([chunk.count for chunk in chunks]).cumsum(0), (1, 0))
