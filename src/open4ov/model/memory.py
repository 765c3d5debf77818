"""What a forward pass may continue: the keys and values of tokens that came before, wherever they are kept."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Memory(Protocol):
    """Attends for the model, one layer after another, and keeps what is new. Made for one pack of tokens."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the pack's tokens over what their documents have seen and over themselves, causally.

        q [T, H, d], k and v [T, K, d] of the pack, normalised and turned -> [T, H * d].
        """
        ...
