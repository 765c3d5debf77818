"""Steps in which all that is under way decodes, in shapes that stay: a GPU plays them back as CUDA graphs.

A step of a few tokens is hundreds of small kernels, and the host takes longer to ask for each than the GPU to compute
it. Recorded once, the whole step is asked for with one call. It is recorded for a number of rows, a power of two: rows
that nobody uses compute something, too, and write it where nobody reads. What a graph refers to must stay in its place,
so graphs go with the memory of the rows, and with it whenever the weights are others.

What autocast has cast is no such thing: its cache is one for all threads, and emptied when any of them leaves its
outermost context. A graph reads from it only where all weights are cast (`Decoding.casts`), inside one context.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from open4ov.engine.fp8 import Fp8Experts
from open4ov.engine.half import Head, products
from open4ov.engine.paged import KVStore, OneMore, Rows
from open4ov.engine.quantize import QuantisedMoE
from open4ov.model import Memory, Pack, Qwen3VL
from open4ov.model.moe import MoE

Step = Callable[[Pack, Memory], Tensor]

_RECORDING = threading.Lock()
"""PyTorch records one graph at a time, whichever thread asks"""


class Decoding:
    """The decoding steps of an engine. `on`: whether the model can be computed so; `casts`: whether autocast has
    weights of products to cast to the head's `half`. It keeps those as long as its context, so steps are to be in one,
    and no other thread may leave one of its own meanwhile."""

    def __init__(self, model: Qwen3VL, head: Head, store: KVStore, rows: Rows, graphs: bool) -> None:
        half = head.half
        self.model, self.head, self.store, self.rows = model, head, store, rows
        self.on = graphs and model.device.type == "cuda" and not _waits(model, half)
        self.casts = half is not None and any(model.get_parameter(name).dtype != half for name in products(model))
        self._steps: dict[int, Recorded] = {}
        self._of = rows.taken

    def clear(self) -> None:
        """Drops what was recorded."""
        self._steps = {}

    def logits(self) -> Tensor:
        """One token more in every row: what may follow it, [B, V], until the next call."""
        self.rows.reserve()
        if self._of != self.rows.taken:
            self.clear()
            self._of = self.rows.taken
        used = len(self.rows.sequences)
        count = min(1 << (used - 1).bit_length(), self.rows.keys.shape[1])
        if count not in self._steps:
            self._steps[count] = Recorded(self.store, self.rows, count)
        return self._steps[count].play(self._step)[:used]

    def _step(self, pack: Pack, memory: Memory) -> Tensor:
        """A forward pass -> logits. What it casts is its own, unless the engine `casts`."""
        half = self.head.half
        alone = half is not None and not self.casts
        with torch.autocast(self.model.device.type, half, cache_enabled=False) if alone else nullcontext():
            return self.head.logits(self.model.hidden_states(pack, None, memory))


class Recorded:
    """The step of `count` rows: the first time computed as it is, which lets libraries get ready, then recorded."""

    def __init__(self, store: KVStore, rows: Rows, count: int) -> None:
        self.store, self.rows, self.count = store, rows, count
        device = store.keys.device
        self.given = torch.zeros(4, count, dtype=torch.long, device=device)
        """Of each row: the token, its position, its slot, and how many tokens the row holds before it"""
        self.borders = torch.arange(count + 1, device=device)
        self.nothing = torch.empty(0, dtype=torch.long, device=device)
        self.ready = False
        self.graph: torch.cuda.CUDAGraph | None = None
        self.out = torch.empty(0, device=device)

    def play(self, step: Step) -> Tensor:
        """The logits [count, V] after the last tokens of the rows; rows that nobody uses give some as well."""
        self.given.copy_(torch.tensor(self._told()).T)
        if not self.ready or not self.given.is_cuda:
            self.ready = True
            return self._compute(step)
        with torch.cuda.device(self.given.device):  # a thread begins on the machine's first card, whichever this is
            if self.graph is None:
                graph = torch.cuda.CUDAGraph()
                # other threads may compute meanwhile, and NCCL's watchdog look; to wait for the whole card ends it
                with _RECORDING, torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    self.out = self._compute(step)
                self.graph = graph
            self.graph.replay()
        return self.out

    def _told(self) -> list[tuple[int, int, int, int]]:
        size = self.store.size
        told = [
            (one.tokens[-1], one.position(one.computed), one.slot(one.computed, size), one.computed)
            for one in self.rows.sequences
        ]
        return told + [(0, 0, self.store.spare, 0)] * (self.count - len(told))

    def _compute(self, step: Step) -> Tensor:
        ids, positions, slots, held = self.given
        pack = Pack(
            input_ids=ids,
            positions=positions.expand(3, -1),
            cu_seqlens=self.borders,
            targets=self.nothing.bool(),
            pixels=self.nothing[:, None],
            grids=self.nothing[:, None],
            places=self.nothing,
        )
        return step(pack, _Memory(self.store, slots, OneMore(self.rows, held, self.rows.keys.shape[3])))


class _Memory:
    """The memory of such a step (`model.Memory`)."""

    def __init__(self, store: KVStore, slots: Tensor, one_more: OneMore) -> None:
        self.store, self.slots, self.one_more = store, slots, one_more

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.one_more.attend(layer, q, *self.store.write(layer, self.slots, k, v))


def _waits(model: Qwen3VL, half: torch.dtype | None) -> bool:
    """Whether the host has to know how many rows each expert has: where they go one by one, and in grouped products of
    another type than bfloat16."""
    experts = [module for module in model.modules() if isinstance(module, MoE)]
    packed = [one for module in experts if isinstance(module, QuantisedMoE) for one in module.packed.values()]
    plain = [module for module in experts if not isinstance(module, QuantisedMoE)]
    if any(isinstance(one, Fp8Experts) and one.one_by_one for one in packed):
        return True
    held = {module.gate_up.dtype for module in plain} if half is None else {half}
    return bool(plain) and (held != {torch.bfloat16} or any(module.kernel == "loop" for module in plain))
