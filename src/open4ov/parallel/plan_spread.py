"""A job on a mesh: which rank of the pipeline has which layers, how many microbatches it computes, how each is cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from open4ov.model.config import Config
from open4ov.recipe_parallel import ParallelSection

from . import cuts, orders
from .mesh import Mesh
from .plan_activations import Spread
from .plan_hardware import Hardware
from .plan_job import Job
from .plan_shapes import Held, Piece, held


@dataclass(frozen=True)
class Setup:
    """All that decides what a plan says."""

    job: Job
    options: ParallelSection
    mesh: Mesh
    hardware: Hardware

    @property
    def cuda(self) -> bool:
        return self.hardware.device == "cuda"

    @cached_property
    def spread(self) -> Spread:
        job, mesh = self.job, self.mesh
        return Spread(
            tp=mesh.tp,
            cp=mesh.cp,
            ep=mesh.ep,
            half=job.half,
            cuda=self.cuda,
            imbalance=job.imbalance if mesh.ep > 1 else 1.0,
            whole_vision=self.options.vision == "whole",
            sent_half=mesh.world > 1 and self.layer_bytes == 2,
        )

    @property
    def layer_bytes(self) -> int:
        """Of a number of the decoder layers' weights, as FSDP sends it (`parallel.gather`)."""
        return 2 if self.job.half and self.options.gather == "auto" else 4

    @property
    def microbatches(self) -> int:
        """Passes of each rank in a step; where packs do not share out evenly, some are of weight 0."""
        return -(-self.job.packs // self.mesh.size("dp"))

    @property
    def filled(self) -> float:
        """The share of the passes that have a pack of their own."""
        return self.job.packs / (self.microbatches * self.mesh.size("dp"))

    @property
    def chunks(self) -> int:
        return self.options.pieces

    @cached_property
    def cut(self) -> cuts.Cut:
        """Where the pipeline is cut; by the training's rule."""
        tower = 1 if self.job.frozen_vision else 3
        share = self.options.visual_share
        return _cut(self.job.config, tower, share, self.mesh.pp, self.chunks, self.options.schedule)

    @cached_property
    def stages(self) -> list[Piece]:
        """In the order of the model."""
        borders = (self.options.borders or self.cut.borders) if self.mesh.pp > 1 else ()
        edges = [0, *borders, self.job.config.text.num_hidden_layers]
        count = len(edges) - 1
        return [
            Piece(tuple(range(edges[stage], edges[stage + 1])), stage == 0, stage == count - 1)
            for stage in range(count)
        ]

    def own(self, rank: int) -> list[int]:
        """The stages that a rank of the pipeline has."""
        return orders.stages_of(self.options.schedule, rank, self.mesh.pp, self.chunks)

    def piece(self, rank: int) -> Piece:
        """All that a rank of the pipeline has."""
        stages = [self.stages[stage] for stage in self.own(rank)]
        layers = tuple(layer for stage in stages for layer in stage.layers)
        return Piece(layers, any(s.begins for s in stages), any(s.ends for s in stages))

    def held(self, at: int) -> list[Held]:
        """The parameters of the rank `at` of the world, stage after stage: of tied words each end has a copy."""
        pieces = [self.stages[stage] for stage in self.own(self.mesh.rank("pp", at))]
        return [one for piece in pieces for one in held(self.job.config, self.mesh, piece, at, self.job.frozen_vision)]

    def at(self, rank: int) -> int:
        """The first rank in the world with that place in the pipeline: of all such it has most."""
        return rank * (self.mesh.world // self.mesh.pp)


@lru_cache(maxsize=1024)
def _cut(config: Config, tower: int, visual: float, pp: int, chunks: int, schedule: str) -> cuts.Cut:
    from .piped import PACK  # which needs torch's pipelines

    costs = cuts.typical(config, PACK, visual, tower=tower)
    return cuts.cut(costs, pp, chunks, schedule, len(config.vision.deepstack_visual_indexes))
