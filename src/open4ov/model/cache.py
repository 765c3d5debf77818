"""Keys and values of unfinished documents, one row each: written by prefill, extended by decoding."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """`keys`, `values` [layers, rows, max_len, kv_heads, head_dim]; `lengths` [rows]: tokens that each row holds."""

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        max_len: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (layers, batch, max_len, kv_heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)

    @property
    def batch(self) -> int:
        return self.keys.shape[1]

    @property
    def max_len(self) -> int:
        return self.keys.shape[2]

    def select(self, rows: Tensor, max_len: int | None = None) -> KVCache:
        """A copy with the given rows (repeats share a prompt among completions; omissions drop finished rows),
        with room for `max_len` tokens (as before when None)."""
        out = KVCache.__new__(KVCache)
        out.keys, out.values = self.keys[:, rows], self.values[:, rows]
        out.lengths = self.lengths[rows].clone()
        room = (self.max_len if max_len is None else max_len) - self.max_len
        if room < 0:
            assert max_len is not None
            assert int(out.lengths.max()) <= max_len, "select would cut tokens off"
            out.keys, out.values = out.keys[:, :, :max_len].clone(), out.values[:, :, :max_len].clone()
        elif room > 0:
            pad = (0, 0, 0, 0, 0, room)
            out.keys, out.values = (torch.nn.functional.pad(x, pad) for x in (out.keys, out.values))
        return out

    def repeat(self, n: int, max_len: int | None = None) -> KVCache:
        """Every row n times, copies side by side (a a a b b b)."""
        return self.select(torch.arange(self.batch, device=self.lengths.device).repeat_interleave(n), max_len)

    def slots(self, rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Where `counts` [B] new tokens of `rows` [B] go.

        Returns slots [T] into the flattened (rows x max_len), and each token's position [T] within its row. Raises
        ValueError when a row would overflow.
        """
        starts = self.lengths[rows]
        if int((starts + counts).max()) > self.max_len:
            raise ValueError(
                f"KVCache of max_len {self.max_len} cannot hold {int((starts + counts).max())} tokens; make it larger"
            )
        document = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        position = starts[document] + torch.arange(len(document), device=rows.device) - first[document]
        return rows[document] * self.max_len + position, position
