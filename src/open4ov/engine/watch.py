"""Whether a model's weights have changed since somebody last looked, without relying on anybody to say so."""

from __future__ import annotations

import weakref

import torch
from torch import nn


class Watch:
    """Which weights a module has: its parameters, where they lie, how often they were written to, and, where they may
    be trained, a hash of their content: fused optimizers write past PyTorch's count."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.seen = self._now()

    def _now(self) -> list[tuple[weakref.ref[nn.Parameter], int, int, int]]:
        parameters = list(self.module.parameters())
        hashes = [torch.hash_tensor(p.detach()).view(torch.int64) for p in parameters if p.requires_grad]
        contents = iter(torch.stack(hashes).tolist() if hashes else [])
        return [
            (weakref.ref(p), p.data_ptr(), p._version, next(contents) if p.requires_grad else 0) for p in parameters
        ]

    def changed(self) -> bool:
        """Whether the weights are others than at the last call."""
        before, self.seen = self.seen, self._now()
        return len(before) != len(self.seen) or any(
            old[0]() is not new[0]() or old[1:] != new[1:] for old, new in zip(before, self.seen, strict=True)
        )
