"""Whether a model's weights have changed since somebody last looked, without relying on anybody to say so."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

TILE = 4096


class Watch:
    """Looks at the content of parameters: PyTorch's version counters miss fused optimizers and writes through `.data`.

    `parameters` is asked each time, so that another module put in place is seen too. A look reads all of them, which is
    worth it beside training; where weights come by `Engine.update_weights` only, `on` is False and nothing is read.
    """

    def __init__(self, parameters: Callable[[], Iterable[nn.Parameter]], on: bool = True) -> None:
        self.parameters, self.on = parameters, on
        self.seen = self._now()

    def changed(self) -> bool:
        """Whether the weights are others than at the last call."""
        before, self.seen = self.seen, self._now()
        return before != self.seen

    @torch.no_grad()
    def _now(self) -> list[tuple[int, float]]:
        parameters = [parameter.detach() for parameter in self.parameters()] if self.on else []
        if not parameters or parameters[0].is_meta:
            return []
        with torch.autocast(parameters[0].device.type, enabled=False):
            hashes = torch.stack([torch.hash_tensor(p).view(torch.int64) for p in parameters])
            sums = torch.stack([_weighed(p) for p in parameters])
        return list(zip(hashes.tolist(), sums.tolist(), strict=True))


def _weighed(x: Tensor) -> Tensor:
    """A sum that weighs every place differently. Beside the hash, which sees any single bit but neither order nor
    pairs of equal changes."""
    flat = x.flatten().float()
    rows = torch.nn.functional.pad(flat, (0, -len(flat) % TILE)).view(-1, TILE)
    weights = torch.sin(torch.arange(1, TILE + len(rows) + 1, device=x.device, dtype=torch.float32))
    return (rows @ weights[:TILE]) @ weights[TILE:]
