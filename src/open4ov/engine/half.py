"""Weights of a model that computes in half precision by autocast: held so that no step casts them anew.

Autocast keeps what it has cast of weights that are trained (and outside of inference mode), until its outermost context
ends. All others it casts at every product: in decoding, where a step is few tokens, that is most of the time.
"""

from __future__ import annotations

import torch

from open4ov.model import Qwen3VL


def products(model: Qwen3VL) -> list[str]:
    """The decoder's parameters that are read by products only, of which autocast computes in its own type: in that type
    they give the same bits. Not the words, which are looked up, nor norms."""
    found = [f"text.layers.{name}" for name, p in model.text.layers.named_parameters() if p.dim() > 1]
    return found if model.head is None else [*found, "head.weight"]


def in_half(model: Qwen3VL, half: torch.dtype) -> None:
    """Holds the weights of products in the type that autocast computes in: half the bytes, and no cast."""
    for name in products(model):
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.to(half)
