"""LoRA adapters chosen by request: one set of weights answers as many models, in one batch.

y = x W^T + scale (x A^T) B^T (Hu et al. 2021), with A and B of the adapter that each token's request names. The weights
are not touched: what an adapter adds is added to the outputs of the layers, so a quantised model takes adapters too.
What is computed with one is found again only with the same one (`Sequence.key_of`).

Shapes: T tokens of a step, N of them with an adapter, r rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4ov.errors import UserError, nearest
from open4ov.model import Qwen3VL, lora


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter beside a model: (A [r, in], scale * B [out, r]) by layer; `digest` names what is in it."""

    name: str
    digest: str
    layers: dict[str, tuple[Tensor, Tensor]]


class Adapters:
    """The adapters of one engine's model, by name. Only the thread that steps the engine may compute with them."""

    def __init__(self, model: Qwen3VL) -> None:
        self.model = model
        self._held: dict[str, Adapter] = {}
        self._hooked: set[str] = set()
        self._now: list[tuple[Adapter, Tensor | None]] = []
        """Whose rows of the step are which (None: all)"""

    @property
    def names(self) -> list[str]:
        return list(self._held)

    def add(self, name: str, path: Path) -> Adapter:
        """Reads the adapter at `path`, a file of `lora.save` or a folder of PEFT's; requests name it from now on. One
        of that name is replaced; what is under way with it ends with it.

        Raises UserError for an adapter that does not fit, and for one of experts, which can only be merged.
        """
        state, scales = lora.read(self.model, path)
        modules = dict(self.model.named_modules())
        experts = [owner for owner in sorted(scales) if not isinstance(modules[owner], nn.Linear)]
        if experts:
            raise UserError(
                f"{path}: adapts experts ({experts[0]}), which no request can choose; merge it in (--adapter)"
            )
        weight = self.model.text.embed.weight
        digest, layers = hashlib.sha256(), dict[str, tuple[Tensor, Tensor]]()
        for owner, scale in sorted(scales.items()):
            a, b = (state[f"{owner}.{part}"].to(weight.device, weight.dtype) for part in lora.LINEAR_PARTS)
            layers[owner] = (a, b * scale)
            for tensor in layers[owner]:
                digest.update(f"{owner} {tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        for owner in sorted(layers.keys() - self._hooked):
            modules[owner].register_forward_hook(self._hook(owner))
            self._hooked.add(owner)
        adapter = self._held[name] = Adapter(name, digest.hexdigest(), layers)
        return adapter

    def remove(self, name: str) -> None:
        """Requests cannot name it any more. Raises UserError for an unknown one."""
        self.get(name)
        del self._held[name]

    def get(self, name: str) -> Adapter | None:
        """The adapter of that name; None for "", which is the model itself. Raises UserError for an unknown one."""
        if name and name not in self._held:
            raise UserError(f"there is no adapter {name!r}{nearest(name, self._held)}")
        return self._held[name] if name else None

    @contextmanager
    def used(self, counts: Iterable[tuple[Adapter | None, int]]) -> Iterator[None]:
        """The model computes with these: of its tokens, in order, so many with each adapter."""
        counts = list(counts)
        rows: dict[Adapter, list[int]] = {}
        start = 0
        for adapter, count in counts:
            if adapter is not None:
                rows.setdefault(adapter, []).extend(range(start, start + count))
            start += count
        device = self.model.device
        self._now = [
            (adapter, None if len(mine) == start else torch.tensor(mine, device=device))
            for adapter, mine in rows.items()
        ]
        try:
            yield
        finally:
            self._now = []

    def _hook(self, owner: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        def add(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            """Layer inputs [T, in], output [T, out]."""
            for adapter, rows in self._now:
                if owner not in adapter.layers:
                    continue
                a, b = adapter.layers[owner]
                x = inputs[0] if rows is None else inputs[0][rows]
                added = F.linear(F.linear(x, a), b).to(output.dtype)
                output = output + added if rows is None else output.index_add(0, rows, added)
            return output if self._now else None

        return add
