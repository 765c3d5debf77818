"""Which hidden states the head reads, and how they come to the ranks that read them.

Targets lie unevenly among the tokens, and the head is most of what a small model computes. So the states that are read
are brought together from all ranks that share the pack, and dealt out again: those of `cp` take equal runs of them,
those of `tp`, which share the words, the same.

Shapes: n rows that are read, u of these that differ, S tokens of the shard, D hidden, r rows of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from .collectives import all_gather, all_gather_same
from .layout import Axes, Layout


@dataclass(frozen=True)
class Reading:
    """See `of`."""

    rows: Tensor | None
    """Long [u]: what the last stage is to compute; None: every token of its shard"""
    own: Tensor
    """Long: of the shard what is read, filled up to the most of any shard"""
    source: Tensor | None
    """Long [r]: which of all shards' `own` a row of this rank is; None: they are in order"""
    span: slice
    """This rank's rows among n"""
    size: int
    """The most rows of any rank"""
    count: int
    """n"""
    seq: ProcessGroup | None
    cp: ProcessGroup | None

    @staticmethod
    def of(rows: Tensor, layout: Layout, axes: Axes) -> Reading:
        """rows: Long [n], tokens of the pack, on its device; some may be there several times."""
        count = len(rows)
        size = -(-count // axes.size("cp"))
        first = min(count, axes.rank("cp") * size)
        span = slice(first, min(count, first + size))
        groups = {"seq": axes.group("seq"), "cp": axes.group("cp")}
        read, place = torch.unique(rows, return_inverse=True)
        if layout.whole:
            same = torch.equal(read, rows)
            return Reading(rows if same else read, rows, None if same else place, span, size, count, **groups)
        length = layout.stop - layout.start
        shard = read // length
        counts = torch.bincount(shard, minlength=axes.size("seq"))
        most = max(1, int(counts.max()))
        slots = shard * most + torch.arange(len(read), device=rows.device) - (counts.cumsum(0) - counts)[shard]
        own = read[shard == axes.rank("seq")] - layout.start
        return Reading(None, F.pad(own, (0, most - len(own))), slots[place[span]], span, size, count, **groups)

    def states(self, hidden: Tensor) -> Tensor:
        """What the last stage gave, [S, D] (or [u, D] of `rows`) -> the rows of this rank [r, D]."""
        if self.rows is None:
            hidden = all_gather(hidden.index_select(0, self.own), self.seq)
        return hidden if self.source is None else hidden.index_select(0, self.source)

    def together(self, values: Tensor) -> Tensor:
        """A value for each of this rank's rows [r] -> for each row [n], for all ranks to compute the same."""
        filled = F.pad(values, (0, self.size - len(values)))
        return all_gather_same(filled, self.cp)[: self.count]
