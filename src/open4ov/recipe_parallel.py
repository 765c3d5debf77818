"""`parallel`: how a training is spread over processes (paper §5.1). One process, unless told.

It does not decide what is computed: batch, packs and steps are those of one process, and weights differ by rounding
only. So no stage's key reads it (`keys.py`), and a run goes on on another mesh.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from open4ov import recipe_sft
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import Recipe, SftSection

Schedule = Literal["gpipe", "1f1b", "interleaved", "interleaved_zero_bubble", "zbv"]
ONE_CHUNK = ("gpipe", "1f1b")
"""Schedules whose ranks hold one piece of the model each"""
AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
"""Of the mesh, from outer to inner: ranks next to one another in the last lie next to one another in the machine"""


class ParallelSection(Section):
    """The sizes multiply to the number of processes; `ep` folds dp_shard x cp x tp once more, for experts."""

    pp: int = Field(default=1, ge=1, description="pipeline: stages that the layers are cut into")
    dp_replicate: int = Field(default=1, ge=1, description="copies of the sharded model (HSDP)")
    dp_shard: int = Field(
        default=-1, ge=-1, description="FSDP: ranks that share the weights; -1: the processes that are left"
    )
    cp: int = Field(default=1, ge=1, description="context: ranks that share the tokens of a pack (Ulysses)")
    tp: int = Field(default=1, ge=1, description="tensor: ranks that share every matrix, and tokens between them")
    ep: int = Field(default=1, ge=1, description="ranks that share the experts of a layer; divides dp_shard x cp x tp")
    schedule: Schedule = Field(default="1f1b", description="of the pipeline")
    chunks: int | None = Field(
        default=None,
        ge=2,
        description="pieces of the model on each rank of the pipeline, in a schedule that takes several; 2 when empty",
    )
    visual_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="what share of a pack's tokens is taken to be of pictures, when layers are cut into equal stages",
    )
    borders: tuple[int, ...] = Field(
        default=(),
        description="the first layer of every piece but the first, such as [15, 32, 40]; cut by cost when empty",
    )
    vision: Literal["pictures", "whole"] = Field(
        default="pictures",
        description="a trained tower on ranks of cp x tp. pictures: each encodes some; whole: each encodes all",
    )
    dispatch: Literal["all_to_all", "local", "deepep"] = Field(
        default="all_to_all",
        description="how tokens and experts meet. all_to_all: tokens travel to the experts' ranks; local: every rank "
        "gathers all experts for each pass; deepep: as all_to_all by DeepEP's kernels (CUDA, package deep_ep)",
    )
    gather: Literal["auto", "fp32"] = Field(
        default="auto",
        description="what FSDP sends of the decoder layers' weights. auto: what products compute in, so that bf16 has "
        "half the bytes (norms are then rounded to it, too); fp32: as they are held",
    )
    timeout: float = Field(
        default=600.0, gt=0, description="seconds that ranks wait for one another before all are ended"
    )

    @property
    def pieces(self) -> int:
        """Pieces of the model on each rank of the pipeline."""
        return 1 if self.pp == 1 or self.schedule in ONE_CHUNK else self.chunks or 2

    @property
    def alone(self) -> bool:
        """Whether this is one process for certain."""
        return all(getattr(self, axis) == 1 for axis in AXES)


def contradictions(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together, whatever the model and however many processes are started."""
    parallel = recipe.parallel
    if any(getattr(parallel, axis) > 1 for axis in AXES):
        yield from for_one(recipe.sft)
    if parallel.tp > 1 and recipe.sft.lora_rank:
        yield ("sft", "lora_rank"), f"adapters are not cut: with parallel.tp = {parallel.tp} it must be 0"
    if parallel.dp_shard == 0:
        yield ("parallel", "dp_shard"), "0 ranks hold nothing; use -1 for the processes that are left, or 1 or more"
    elif parallel.dp_shard > 0:
        folded = parallel.dp_shard * parallel.cp * parallel.tp
        if folded % parallel.ep:
            message = (
                f"{parallel.ep} must divide dp_shard x cp x tp = {parallel.dp_shard} x {parallel.cp} x {parallel.tp} "
                f"= {folded}, the ranks that it folds"
            )
            yield ("parallel", "ep"), message
    if parallel.pp > 1 and parallel.borders:
        wanted, found = parallel.pp * parallel.pieces - 1, len(parallel.borders)
        if found != wanted:
            yield ("parallel", "borders"), f"{found} given, but {wanted + 1} pieces need {wanted}"
        elif any(a >= b for a, b in pairwise((0, *parallel.borders))):
            yield ("parallel", "borders"), "they must ascend from 1 on: no piece may be empty"
    if parallel.pp > 1 and parallel.schedule == "zbv" and parallel.pieces != 2:
        yield ("parallel", "chunks"), f"{parallel.pieces}, but schedule zbv has 2 pieces on each rank"


def for_one(sft: SftSection) -> Iterator[tuple[Loc, str]]:
    """What only one process can do."""
    if sft.compile:
        yield ("sft", "compile"), "blocks are not compiled on several processes (parallel); set it to false"
    if sft.optimizer == "muon":
        yield ("sft", "optimizer"), "muon works on whole matrices, in one process; use adamw on several (parallel)"


def idle(recipe: Recipe) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    parallel, sft = recipe.parallel, recipe.sft
    written = parallel.model_fields_set
    if parallel.pp == 1:
        for name in sorted({"schedule", "chunks", "visual_share", "borders"} & written):
            yield ("parallel", name), "parallel.pp is 1: there is no pipeline", ("parallel", "pp")
    elif "chunks" in written and parallel.schedule in ONE_CHUNK:
        reason = f"parallel.schedule {parallel.schedule} has one piece on each rank"
        yield ("parallel", "chunks"), reason, ("parallel", "schedule")
    if parallel.pp > 1 and parallel.borders and "visual_share" in written:
        yield ("parallel", "visual_share"), "parallel.borders says where layers are cut", ("parallel", "borders")
    if "vision" in written and parallel.cp * parallel.tp == 1:
        reason = "parallel.cp and parallel.tp are 1: each rank has pictures of its own"
        yield ("parallel", "vision"), reason, ("parallel", "tp")
    elif "vision" in written and not _trains_tower(recipe):
        switch: Loc = ("sft", "lora_rank" if sft.lora_rank else recipe_sft.STAGES[0])
        yield ("parallel", "vision"), "no stage trains the vision tower or its mergers", switch
    if "dispatch" in written and parallel.ep == 1:
        yield ("parallel", "dispatch"), "parallel.ep is 1: experts are where the tokens are", ("parallel", "ep")
    if "timeout" in written and parallel.alone:
        yield ("parallel", "timeout"), "there is one process, which waits for none", ("parallel", "dp_shard")


def _trains_tower(recipe: Recipe) -> bool:
    """Whether a stage trains something of the vision tower; DPO never does."""
    sft, rl = recipe.sft, recipe.rl
    by_sft = sft.lora_rank == 0 and not all(stage.still_vision for stage in recipe_sft.stages_of(sft))
    return by_sft or (rl.steps > 0 and not rl.freeze_vision)
