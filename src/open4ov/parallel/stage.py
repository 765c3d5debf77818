"""The part of a Qwen3-VL that one stage of a pipeline computes; a model that is not cut is one stage.

The first stage has the vision tower and the embedding, the last one the final norm and the head, and each a run of the
decoder's layers. Parameters have the names that they have in the whole model. What goes from stage to stage are the
hidden states, and what DeepStack has still to add to them: visual tokens meet the first decoder layers' outputs too,
and these may be on later stages.

Shapes: S tokens of the shard (`layout.py`), D hidden, M visual tokens of the pack, W of the shard, R rows of the taps
(`Layout.room`, at least W), n rows that are read.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4ov.errors import UserError
from open4ov.model import Memory, Qwen3VL, VisionConfig, VisionFeatures
from open4ov.model.moe import Routing
from open4ov.model.text import DecoderLayer

from .layout import Layout


class _Text(nn.Module):
    """What a stage has of the decoder, by the names of the whole."""

    def __init__(self, embed: nn.Module | None, layers: dict[str, nn.Module], norm: nn.Module | None) -> None:
        super().__init__()
        self.embed, self.layers, self.norm = embed, nn.ModuleDict(layers), norm


class Stage(nn.Module):
    """Layers `first` to `last` - 1 of the model, whose modules it takes over: the model itself is not used any more.
    `begins`, `ends`: whether it is the first and the last stage, either of which may have no layers; None: where it
    has the first, or the last, layer.

    With tied words the last stage has the embedding too, as its head. Where that is not the first stage, two stages
    hold the same parameter (`twin`), and each computes a part of its gradient.
    """

    def __init__(
        self, model: Qwen3VL, first: int, last: int, begins: bool | None = None, ends: bool | None = None
    ) -> None:
        super().__init__()
        layers = model.text.layers
        if not 0 <= first <= last <= len(layers):
            raise ValueError(f"layers {first} to {last - 1} of a model with {len(layers)}")
        self.config, self.first, self.last = model.config, first, last
        begins = first == 0 if begins is None else begins
        ends = last == len(layers) if ends is None else ends
        self.vision = model.vision if begins else None
        self.text = _Text(
            model.text.embed if begins or (ends and model.head is None) else None,
            {str(i): layers[i] for i in range(first, last)},
            model.text.norm if ends else None,
        )
        self.head = model.head if ends else None

    @property
    def begins(self) -> bool:
        """Whether it is the first stage."""
        return self.vision is not None

    @property
    def ends(self) -> bool:
        """Whether it is the last stage."""
        return self.text.norm is not None

    @property
    def head_weight(self) -> Tensor:
        """[V, D], on the last stage."""
        assert self.ends
        return cast(nn.Linear, self.head or self.text.embed).weight

    @property
    def twin(self) -> str | None:
        """The parameter that another stage holds, too."""
        shared = self.config.tie_word_embeddings and self.begins != self.ends
        return "text.embed.weight" if shared and self.text.embed is not None else None

    def layers(self) -> list[tuple[int, DecoderLayer]]:
        """Its decoder layers by their number in the whole model."""
        return [(int(i), cast(DecoderLayer, layer)) for i, layer in self.text.layers.items()]

    def taps_in(self) -> int:
        """How many taps it gets from the stage before it."""
        return taps_left(len(self.config.vision.deepstack_visual_indexes), self.first)

    def taps_out(self) -> int:
        """How many taps it hands on."""
        return taps_left(len(self.config.vision.deepstack_visual_indexes), self.last)

    def forward(
        self,
        layout: Layout,
        states: Tensor | None = None,
        taps: Tensor | None = None,
        vision: VisionFeatures | None = None,
        memory: Memory | None = None,
        routings: list[Routing] | None = None,
        rows: Tensor | None = None,
        tower: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [S, D], normalised on the last stage, and the taps that are still to be added, [taps, R, D]
        (none from the last stage).

        states, taps: what the stage before gave; on the first stage None. vision: on the first stage the features of
        the pack's pictures; None: its pixels pass the tower here, if there are any. tower: it is run in any case, as
        other ranks run theirs, which is sharded with this one's. routings: gets how the layers with experts spread the
        tokens. rows (Long [m], places in the shard, each once): on the last stage only these are given -> [m, D]; where
        the shard is the whole pack, its last layer computes no others.

        Raises UserError when a document's placeholders and visual tokens differ in number, and names it.
        """
        if states is None:
            assert self.begins, "a later stage gets hidden states"
            states, taps = self._embedded(layout, vision, tower)
        assert taps is not None, "hidden states come with taps"
        x, over = states, layout.over(memory)
        layers, held = self.layers(), 0 if layout.visuals == 0 else len(taps)
        early = rows is not None and self.ends and layout.whole and held < len(layers)
        for at, (i, layer) in enumerate(layers):
            some = rows if early and at == len(layers) - 1 else None
            if over is not None:
                x = layer.continued(x, layout.cos, layout.sin, partial(over.attend, i), some)
            else:
                own: list[Routing] | None = None if routings is None else []  # a compiled layer wants a new list
                x = layer(x, layout.cos, layout.sin, layout.documents, own, some)
                if routings is not None and own:
                    routings += own
            if at < held:
                x = x.index_add(0, layout.places, taps[at, : len(layout.places)].to(x.dtype))
        if self.text.norm is None:
            return x, taps[len(layers) :].clone()  # FSDP wants no views
        if rows is not None and not early:
            x = x.index_select(0, rows)
        return self.text.norm(x), taps.new_zeros(0, *taps.shape[1:])

    def _embedded(self, layout: Layout, vision: VisionFeatures | None, tower: bool) -> tuple[Tensor, Tensor]:
        """The shard's tokens as the first layer takes them, and all taps [taps, R, D]."""
        assert self.vision is not None
        assert self.text.embed is not None
        pack, idle = layout.pack, None
        if vision is None and len(pack.pixels):
            vision = self.vision(pack.pixels, pack.grids)
        elif tower:
            idle = self.vision(*nothing(self.config.vision, pack.input_ids.device))
        given = 0 if vision is None else len(vision.merged)
        if layout.visuals != given:
            raise UserError(layout.misfit(self.config.vision.spatial_merge_size))
        x = self.text.embed(layout.ids)
        if idle is not None:  # all of the tower gets a gradient, of zero
            x = x + sum(part.sum() for part in (idle.merged, *idle.deepstack)) * 0.0
        if vision is None:
            taps = len(self.config.vision.deepstack_visual_indexes)
            return x, x.new_zeros(taps, layout.room, self.config.text.hidden_size)
        merged, *taps = (
            part if len(layout.visual) == given else part.index_select(0, layout.visual)
            for part in (vision.merged, *vision.deepstack)
        )
        x = x.index_copy(0, layout.places, merged.to(x))
        fill = layout.room - len(layout.visual)
        laid = [F.pad(tap.to(x), (0, 0, 0, fill)) for tap in taps]
        return x, torch.stack(laid) if laid else x.new_zeros(0, layout.room, x.shape[1])


def nothing(config: VisionConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """The smallest picture, black: pixels [P, patch_dim] and grids [1, 3]."""
    merge = config.spatial_merge_size
    pixels = torch.zeros(merge**2, config.patch_dim, device=device)
    return pixels, torch.tensor([[1, merge, merge]], device=device)


def taps_left(taps: int, layers: int) -> int:
    """How many of a model's taps are still to be added after so many of its layers."""
    return max(0, taps - layers)


def cut(model: Qwen3VL, borders: list[int]) -> list[Stage]:
    """The whole model as stages: the first one has the layers before `borders[0]`. Each takes over modules of the
    model; with tied words the first and the last one share the embedding here, as they are in one process."""
    edges = [0, *borders, len(model.text.layers)]
    spans, final = list(pairwise(edges)), len(borders)
    return [Stage(model, a, b, i == 0, i == final) for i, (a, b) in enumerate(spans)]
