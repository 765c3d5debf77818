"""Weights of a model that computes in half precision by autocast: held so that no step casts them anew.

Autocast keeps what it has cast of weights that are trained (and outside of inference mode), until its outermost context
ends, in whatever thread. All others it casts at every product: in decoding, where a step is few tokens, that is most of
the time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from open4ov.model import Qwen3VL


def product(name: str, weight: Tensor) -> bool:
    """Whether a parameter is the decoder's and read by products only, of which autocast computes in its own type: in
    that type it gives the same bits. Not the words, which are looked up, nor norms."""
    return name == "head.weight" or (name.startswith("text.layers.") and weight.dim() > 1)


def products(model: Qwen3VL) -> list[str]:
    """The names of all such parameters."""
    return [name for name, parameter in model.named_parameters() if product(name, parameter)]


def reading(half: torch.dtype) -> Callable[[str, Tensor], Tensor]:
    """For `Qwen3VL.from_pretrained`: weights of products are read in `half`, the others in float32, none through the
    file's map."""

    def held(name: str, weight: Tensor) -> Tensor:
        kind = half if product(name, weight) else torch.float32
        return weight.to(kind, copy=True, memory_format=torch.contiguous_format)

    return held


def in_half(model: Qwen3VL, half: torch.dtype) -> None:
    """Holds the weights of products in the type that autocast computes in: half the bytes, and no cast."""
    for name in products(model):
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.to(half)


class Head:
    """The head of a model that computes in `half` by autocast (None: in the weights' own type). One that is the
    embedding stays as it is, since words are looked up in it: a copy in `half` is kept beside it, until `clear`."""

    def __init__(self, model: Qwen3VL, half: torch.dtype | None) -> None:
        self.model, self.half = model, half
        self._copy: Tensor | None = None

    def clear(self) -> None:
        """Drops the copy: the weights are others, or its memory is wanted."""
        self._copy = None

    def logits(self, hidden: Tensor) -> Tensor:
        """As `Qwen3VL.logits`, with the same bits. hidden [..., D] -> [..., V]."""
        if self.half is None or self.model.head is not None:
            return self.model.logits(hidden)
        if self._copy is None:
            self._copy = self.model.text.embed.weight.detach().to(self.half)
        return F.linear(hidden, self._copy)
