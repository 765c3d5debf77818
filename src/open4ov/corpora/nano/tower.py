"""The vision tower's own pretraining: say of every visual token which thing it shows, in which colour, and its text.

The heads read the sum of what the decoder will be given of a token (merged features and DeepStack taps), and are thrown
away afterwards. A picture costs a sixth of a conversation, and every token of it supervises the tower directly.

Shapes: M visual tokens of all pictures, D hidden size of the decoder.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4ov.corpora import shapes
from open4ov.model import Qwen3VL
from open4ov.model.images import ImageSettings, patches
from open4ov.model.losses import nll_sum

COLOUR_WEIGHT = 0.3
EASY = 20_000
"""Easy pictures at the start; see `shapes.picture`."""


@dataclass
class Pictures:
    """Labelled pictures ready for the tower: pixels [P, patch], grids [N, 3]; labels as in `shapes.Labelled`."""

    pixels: Tensor
    grids: Tensor
    identity: Tensor
    colour: Tensor
    characters: Tensor


def draw(numbers: Iterable[int], seed: int, settings: ImageSettings) -> Pictures:
    """The labelled pictures of those numbers: a function of (seed, number). The first `EASY` are easy ones."""
    drawn = [shapes.picture(random.Random(f"shapes/{seed}/{number}"), number < EASY) for number in numbers]
    cut = [patches(each.image, settings) for each in drawn]
    return Pictures(
        torch.cat([pixels for pixels, _ in cut]),
        torch.tensor([grid for _, grid in cut]),
        *(
            torch.from_numpy(np.concatenate([getattr(each, name) for each in drawn]))
            for name in ("identity", "colour", "characters")
        ),
    )


class Heads(nn.Module):
    """Linear heads over a token's features: identity, colour, and one character for each slot."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.identity = nn.Embedding(len(shapes.identities()), size)
        self.colour = nn.Embedding(len(shapes.colours()), size)
        self.slots = nn.Linear(size, shapes.SLOTS * size)
        self.alphabet = nn.Embedding(len(shapes.alphabet()), size)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in (self.identity.weight, self.colour.weight, self.alphabet.weight, self.slots.weight):
                weight.normal_(0.0, 0.02, generator=generator)
            self.slots.bias.zero_()

    def forward(self, model: Qwen3VL, pictures: Pictures) -> tuple[Tensor, Tensor]:
        """The loss (nats; the sum of each label's mean), and the share of known tokens whose identity is right."""
        features = model.encode_images(pictures.pixels, pictures.grids)
        x = self.norm(features.merged + sum(features.deepstack))
        known = (pictures.identity != shapes.IGNORE).nonzero()[:, 0]
        identity = pictures.identity[known]
        loss = nll_sum(x[known], self.identity.weight, identity) / max(len(known), 1)
        tinted = (pictures.colour != shapes.IGNORE).nonzero()[:, 0]
        tints = F.linear(x[tinted], self.colour.weight).float()
        colour = F.cross_entropy(tints, pictures.colour[tinted], reduction="sum") / max(len(tinted), 1)
        written = (pictures.characters[:, 0] != shapes.IGNORE).nonzero()[:, 0]
        letters = self.slots(x[written]).view(-1, x.shape[-1])
        characters = pictures.characters[written].flatten()
        loss = loss + COLOUR_WEIGHT * colour + nll_sum(letters, self.alphabet.weight, characters) / max(len(written), 1)
        with torch.no_grad():
            shown = known[identity != shapes.NOTHING]
            right = F.linear(x[shown], self.identity.weight).argmax(-1) == pictures.identity[shown]
        return loss, right.float().sum() / max(len(right), 1)
