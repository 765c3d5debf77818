"""A model whose stages lie on several ranks: `Parallel` over a pipeline (paper §5.1).

All ranks of a pipeline get the same passes. The first stage encodes the pictures, the last one reads what the passes
ask for; their values, and scores, go to all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from open4ov.model import Config, Pack, Qwen3VL, VisionFeatures
from open4ov.recipe_parallel import ParallelSection
from open4ov.training_pass import Pass, Precision

from . import expert, gradients
from .cuts import cut, typical
from .mesh import Mesh
from .model import Parallel, spread, whole
from .orders import goes_with, stages_of
from .pipeline import Pipeline
from .stage import Stage
from .step import Step

PACK = 8192
"""Tokens of the pack that layers are cut for; where a recipe packs fewer, the tower and the head weigh the same"""


class Piped(Parallel):
    """The stages of the model that this rank has, in the order of the model; see Parallel."""

    def __init__(self, config: Config, mesh: Mesh, options: ParallelSection, stages: list[Stage]) -> None:
        super().__init__(config, mesh, options, stages)
        group = mesh.group("pp")
        assert group is not None, "a pipeline has two ranks or more"
        self.group = group
        dtype = next(stages[0].text.layers.parameters()).dtype
        self.pipeline = Pipeline(stages, options.schedule, group, dtype, self.device)
        self._seen: Tensor | None = None

    @classmethod
    def laid(
        cls, model: Qwen3VL, mesh: Mesh, options: ParallelSection, allocate: bool = False, half: bool = False
    ) -> Piped:
        """As `Parallel.of`."""
        stages = own_stages(model, mesh, options)
        spread(stages, mesh, options, gathered=True, allocate=allocate, half=half)
        return cls(model.config, mesh, options, stages)

    def accumulate(self, passes: Iterable[Pass], precision: Precision) -> list[Tensor]:
        """See `training_pass.accumulate`. The passes are the microbatches, and all in memory together."""
        step = Step(self, list(passes), precision)
        if not step.count:
            return []
        values = self.pipeline.run(step)
        self._seen, self._uneven = self._routed(step), step.uneven
        return values

    @torch.no_grad()
    def score(self, one: Pass, precision: Precision) -> tuple[Tensor, Tensor]:
        """See `training_pass.score`."""
        step = Step(self, [one], precision, scored=True)
        self.pipeline.forward(step)
        self.put_away()
        found = torch.zeros(2, len(one.ids), device=self.device)
        if 0 in step.scores:
            found = torch.stack([scores.float() for scores in step.scores[0]])
        dist.broadcast(found, group=self.group, group_src=self.pipeline.last)
        log_probs, entropies = found
        return log_probs, entropies

    def loss(self, batch: Pack, vision: VisionFeatures | None = None) -> Tensor:
        """See Parallel."""
        if torch.is_grad_enabled():
            raise RuntimeError("a model on many processes gives gradients by `accumulate` only")
        step = Step(self, [Pass.of(batch, vision, 1.0)], nullcontext)
        (value,) = self.pipeline.forward(step)
        self.put_away()
        return value

    def encode_images(self, pixels: Tensor, grids: Tensor) -> VisionFeatures:
        """As Qwen3VL's on the ranks that have the first stage. The others get zeros of the same shape, which no stage
        of theirs reads."""
        if self.stages[0].begins:
            return super().encode_images(pixels, grids)
        vision = self.config.vision
        tokens = int(grids.prod(1).sum()) // vision.spatial_merge_size**2
        nothing = torch.zeros(1, 1, device=self.device).expand(tokens, vision.out_hidden_size)
        return VisionFeatures(nothing, [nothing] * len(vision.deepstack_visual_indexes))

    def clip(self, parameters: list[nn.Parameter], most: float) -> float:
        """See `training_pass.Spread`. Tied words, of which two stages have a copy, count once."""
        norm = float(gradients.norm([p for p in parameters if p is not self.pipeline.twins.head]))
        gradients.clip(parameters, norm, most)
        return norm

    def wholes(self) -> Iterator[tuple[str, Tensor, bool]]:
        """See Parallel: the stages' parameters go to all ranks of the pipeline, one after another; of tied words the
        first stage's."""
        head = self.pipeline.twins.head
        for owner in range(self.mesh.pp):
            mine = owner == self.pipeline.rank
            own = [(name, p) for name, p in self.named_parameters() if p is not head] if mine else []
            told: list[Any] = [[(name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in own]]
            dist.broadcast_object_list(told, group=self.group, group_src=owner)
            for number, (name, shape, dtype, trained) in enumerate(told[0]):
                value = whole(own[number][1].detach()) if mine else torch.empty(shape, dtype=dtype, device=self.device)
                dist.broadcast(value, group=self.group, group_src=owner)
                yield name, value, trained

    def figures(self) -> dict[str, float]:
        """As Qwen3VL's, of this rank's passes, all stages' layers together."""
        if self._seen is None:
            return {}
        balance, entropy, busiest = self._seen.unbind(1)
        return {
            "router_balance": round(float(balance.mean()), 4),
            "router_entropy": round(float(entropy.mean()), 4),
            "busiest_expert": round(float(busiest.max()), 4),
            **expert.figures(self._uneven),
        }

    def _routed(self, step: Step) -> Tensor | None:
        """For each layer with experts, of all stages: balance, entropy, the busiest expert's share."""
        text = self.config.text
        sparse = [layer for layer in range(text.num_hidden_layers) if text.sparse(layer)]
        if not sparse or any(one.objective or one.memory for one in step.passes):
            return None
        own = [layer for stage in self.stages for layer, _ in stage.layers() if text.sparse(layer)]
        found = torch.zeros(len(sparse), 3, device=self.device)
        for layer, routing in zip(own, step.routings, strict=True):
            share = routing.counts.max() / routing.counts.sum()
            found[sparse.index(layer)] = torch.stack([routing.balance(), routing.entropy, share]).float()
        dist.all_reduce(found, group=self.group)
        return found


def own_stages(model: Qwen3VL, mesh: Mesh, options: ParallelSection) -> list[Stage]:
    """The stages of this rank, which take over their modules of the model. Of tied words each has a copy.

    Raises UserError for recomputation that the schedule cannot go with; borders are `Mesh.of`'s to check.
    """
    config, chunks = model.config, options.pieces
    layers = config.text.num_hidden_layers
    for layer in model.text.layers:
        goes_with(options.schedule, getattr(layer, "recompute", "none"))
    borders = options.borders
    if not borders:
        tower = 3 if any(p.requires_grad for p in model.vision_parameters()) else 1
        costs = typical(config, PACK, options.visual_share, tower=tower)
        taps = len(config.vision.deepstack_visual_indexes)
        borders = cut(costs, mesh.pp, chunks, options.schedule, taps).borders
    spans = list(pairwise([0, *borders, layers]))
    own = stages_of(options.schedule, mesh.rank("pp"), mesh.pp, chunks)
    stages = [Stage(model, *spans[number], number == 0, number == len(spans) - 1) for number in own]
    for stage in stages:
        if stage.twin and stage.ends:
            stage.text.embed = copy.deepcopy(cast(nn.Module, stage.text.embed))
    return stages
