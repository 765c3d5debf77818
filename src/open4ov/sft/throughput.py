"""How fast a training goes: tokens a second, and MFU.

MFU is the operations that the model's matrix products need for the batch (`model/flops.py`: causal attention counted as
causal, nothing for padding or for what is recomputed), divided by those that the device could do in the same time by
its maker's figure for dense bfloat16. What documents share is counted once, as it is computed: tokens a second count it
for each of them, MFU does not. A backward pass costs two forward passes where weights are trained; one where
only gradients flow through, as in a language model that is frozen or has adapters; none in a frozen vision tower, and
the tower costs nothing where its features are held. Trained mergers beside a frozen tower are counted as frozen ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from open4ov.model import Config, Encoded, Pack, Qwen3VL, Trainable, lora
from open4ov.model.flops import count
from open4ov.training_pass import Spread

PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A40": 150.0,
    "A10G": 70.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""TFLOPS of dense bfloat16 products by a part of the card's name, the longest that fits; NVIDIA's data sheets."""


def peak_tflops(device: torch.device) -> float | None:
    """What the device could do at most; None for one that is not known, as no CPU is."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((PEAKS[part] for part in sorted(PEAKS, key=len, reverse=True) if part in name), None)


class Operations:
    """Counts the floating-point operations of training steps of a model, as it is frozen when this is made."""

    def __init__(self, model: Trainable[Any, Any]) -> None:
        self.config: Config | None = None
        if not isinstance(model, Qwen3VL | Spread):  # of other models the shapes are not known
            return
        self.config = model.config
        layers = [(name, p) for name, p in model.named_parameters() if name.startswith("text.layers.")]
        adapted = any(lora.is_adapter(name) for name, _ in layers)
        self.language = 3 if not adapted and any(p.requires_grad for _, p in layers) else 2
        self.vision = 3 if any(p.requires_grad for p in model.part_parameters("vision")) else 1

    def of(self, batch: Any, features: Any) -> float:
        """Forward and backward pass over a batch whose images come as pixels or as `features`; 0 when not known."""
        if not isinstance(batch, Pack):
            return 0.0
        across = sum(prefix.tokens * sum(prefix.own) for prefix in batch.prefixes)
        return self._of(batch.lengths.tolist(), batch.grids, len(batch.predicted), across, features is not None)

    def before(self, documents: Sequence[Encoded], held: bool) -> float:
        """As `of`, of a batch that is not made yet; what documents share counts for each of them. `held`: the features
        of their images are."""
        grids = torch.cat([document.grids for document in documents])
        predicted = sum(int(document.targets[1:].sum()) for document in documents)
        return self._of([len(document) for document in documents], grids, predicted, 0, held)

    def _of(self, lengths: Sequence[int], grids: Tensor, predicted: int, across: int, held: bool) -> float:
        if self.config is None:
            return 0.0
        sizes = [(int(t), int(h), int(w)) for t, h, w in grids.tolist()]
        flops = count(self.config, lengths, sizes, predicted, across)
        vision = 0 if held else self.vision
        return self.language * (flops.forward - flops.vision) + vision * flops.vision
