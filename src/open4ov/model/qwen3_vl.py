"""Qwen3-VL, dense or with experts: vision tower, decoder with DeepStack, head; on packed tokens.

Shapes: T tokens of a pack, B documents, L longest, D hidden, V vocabulary, M merged visual tokens.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4ov.errors import UserError

from .config import Config
from .losses import nll_sum, score_by
from .memory import Memory
from .moe import MoE, Routing
from .packing import Pack
from .rope import text_angles
from .text import DecoderLayer, TextModel
from .trainable import Trainable
from .vision import VisionFeatures, VisionModel

if TYPE_CHECKING:
    from .checkpoint import Held

LOGITS_AT_ONCE = 2**26
"""Logits that `log_probs` keeps for its gradient; where there are more, it computes them again."""


def router_figures(routings: list[Routing]) -> dict[str, float]:
    """See `Qwen3VL.figures`; empty without routings."""
    if not routings:
        return {}
    balance, entropy, busiest = (
        torch.stack(values)
        for values in zip(*((r.balance(), r.entropy, r.counts.max() / r.counts.sum()) for r in routings), strict=True)
    )
    return {
        "router_balance": round(float(balance.mean()), 4),
        "router_entropy": round(float(entropy.mean()), 4),
        "busiest_expert": round(float(busiest.max()), 4),
    }


class Qwen3VL(Trainable[Pack, VisionFeatures]):
    """A Qwen3-VL. Random weights (normal, `initializer_range`) from `seed`; see also `from_pretrained`."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self._routings: list[Routing] = []
        self.vision = VisionModel(config.vision)
        self.text = TextModel(config.text)
        size, vocabulary = config.text.hidden_size, config.text.vocab_size
        self.head = None if config.tie_word_embeddings else nn.Linear(size, vocabulary, bias=False)
        if self.device.type != "meta":
            self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                config = self.config.vision if name.startswith("vision.") else self.config.text
                module.weight.normal_(0.0, config.initializer_range, generator=generator)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, MoE):
                for weight in (module.router, module.gate_up, module.down):
                    weight.normal_(0.0, self.config.text.initializer_range, generator=generator)

    @classmethod
    def from_pretrained(
        cls, directory: Path | str, dtype: Held = torch.float32, device: torch.device | str = "cpu"
    ) -> Qwen3VL:
        """Reads a Hugging Face directory. Raises UserError for missing files or keys, and other model types."""
        from .checkpoint import load

        return load(directory, dtype, device)

    def save_pretrained(self, directory: Path | str, dtype: torch.dtype | None = None) -> None:
        """Writes `config.json` and the weights (in `dtype`; as held when None) for Hugging Face readers."""
        from .checkpoint import save

        save(self, directory, dtype)

    @property
    def device(self) -> torch.device:
        return self.text.embed.weight.device

    def figures(self) -> dict[str, float]:
        """With experts, of the last loss: the layers' mean balancing loss (k when the load is even), mean entropy of
        the routers (nats), and the largest share of a layer's assignments that one expert got."""
        return router_figures(self._routings)

    def vision_parameters(self) -> list[nn.Parameter]:
        """The vision tower with its mergers and DeepStack taps."""
        return list(self.vision.parameters())

    def merger_parameters(self) -> list[nn.Parameter]:
        """The merger and those of the DeepStack taps."""
        return [*self.vision.merger.parameters(), *self.vision.taps.parameters()]

    def word_parameters(self) -> list[Tensor]:
        """Embedding and, when it is not tied to it, head: [V, D] each."""
        return [self.text.embed.weight, *([] if self.head is None else [self.head.weight])]

    def blocks(self) -> list[nn.Module]:
        """The blocks of the vision tower and the decoder layers."""
        return [*self.vision.blocks, *self.text.layers]

    def visual_places(self, ids: Tensor) -> Tensor:
        """Where the placeholders of images and videos stand among token ids [T]."""
        config = self.config
        return ((ids == config.image_token_id) | (ids == config.video_token_id)).nonzero()[:, 0]

    def encode_images(self, pixels: Tensor, grids: Tensor) -> VisionFeatures:
        """pixels [P, patch_dim], grids [N, 3] of images and videos -> features of M = P / merge² tokens."""
        return self.vision(pixels.to(self.device), grids)

    def hidden_states(
        self,
        pack: Pack,
        vision: VisionFeatures | None = None,
        memory: Memory | None = None,
        routings: list[Routing] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Final, normalised hidden states [T, D]; of `rows` (Long [n], each once) only, when given -> [n, D]: the last
        layer computes no others, which is most of a layer saved when few tokens are predicted.

        Images are encoded here unless `vision` (all images of the pack, in order) is given. A `memory` attends over
        what the documents have seen before; the pack's `places` then say where the visual tokens go. Without a memory,
        every layer with experts appends how it spread the tokens to `routings`.
        Raises UserError when a document's placeholders and visual tokens differ in number, and names it.
        """
        pack = pack.to(self.device)
        if vision is None and len(pack.pixels):
            vision = self.encode_images(pack.pixels, pack.grids)
        x = self.text.embed(pack.input_ids)
        places = self.visual_places(pack.input_ids) if pack.places is None else pack.places
        if len(places) != (0 if vision is None else len(vision.merged)):
            visual = torch.zeros_like(pack.input_ids, dtype=torch.bool).index_fill(0, places, True)
            raise UserError(pack.misfit(visual, self.config.vision.spatial_merge_size))
        if vision is not None:
            x = x.index_copy(0, places, vision.merged.to(x.dtype))
        cos, sin = text_angles(self.config.text, pack.positions)
        last = len(self.text.layers) - 1
        if vision is not None and last < len(vision.deepstack):
            last = -1  # something that needs every token comes after the last layer
        for i, layer in enumerate(self.text.layers):
            if memory is None:
                own: list[Routing] | None = None if routings is None else []  # a new list: a compiled layer wants it so
                x = layer(x, cos, sin, pack.documents, own, rows if i == last else None)
                if routings is not None and own:
                    routings += own
            else:
                attend = partial(memory.attend, i)
                x = cast(DecoderLayer, layer).continued(x, cos, sin, attend, rows if i == last else None)
            if vision is not None and i < len(vision.deepstack):
                x = x.index_add(0, places, vision.deepstack[i].to(x.dtype))
        if rows is not None and last < 0:
            x = x.index_select(0, rows)
        return self.text.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> [..., V]."""
        return F.linear(hidden, self._head_weight) if self.head is None else self.head(hidden)

    def log_probs(
        self, pack: Pack, vision: VisionFeatures | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """log p(token | what stands before it in its document) [T] at `temperature`, and the entropy [T] in nats of the
        distribution that the token was drawn from (without gradient). Both 0 where `pack.targets` is False and at the
        first token of each document."""
        pack = pack.to(self.device)
        at = pack.predicted
        hidden = self.hidden_states(pack, vision, rows=at - 1)
        values, entropies = self.score(hidden, pack.input_ids[at], temperature)
        out = values.new_zeros(len(pack.input_ids))
        return out.index_copy(0, at, values), out.index_copy(0, at, entropies)

    def loss(self, pack: Pack, vision: VisionFeatures | None = None) -> Tensor:
        """Mean negative log-likelihood (nats a token) over the pack's targets; a scalar. 0 for a pack without any.

        With experts, `router_aux_loss_coef` times the mean of the layers' load-balancing losses is added.
        """
        pack = pack.to(self.device)
        at = pack.predicted
        return self.mean_nll(pack, at - 1, pack.input_ids[at], vision)

    def mean_nll(
        self,
        pack: Pack,
        rows: Tensor,
        ids: Tensor,
        vision: VisionFeatures | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """As `loss`, over the tokens `ids` (Long [n]) that follow the tokens `rows` (Long [n], each once) of the pack.
        Over a `memory` no balancing loss is added."""
        routings: list[Routing] = []
        hidden = self.hidden_states(pack, vision, memory, routings=routings, rows=rows)
        value = nll_sum(hidden, self._head_weight, ids) / max(len(ids), 1)
        self._routings = [routing.detach() for routing in routings]
        coefficient = self.config.text.router_aux_loss_coef
        if routings and coefficient:
            value = value + coefficient * torch.stack([routing.balance() for routing in routings]).mean()
        return value

    @property
    def _head_weight(self) -> Tensor:
        return self.text.embed.weight if self.head is None else self.head.weight

    def score(self, hidden: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """log p of the tokens `ids` [n] that follow the hidden states [n, D], and the entropies [n], as `log_probs`."""
        return score_by(self._head_weight, hidden, ids, temperature, keep=LOGITS_AT_ONCE)
