"""FSDP2 over a stage: parameters, gradients and the optimizer's states are sharded over dp_shard x cp, and copies of
that over dp_replicate (HSDP); experts over efsdp, which is all that is left of dp_shard x cp x tp beside `ep`.

Each decoder layer and the vision tower is gathered when it is computed. Gradients are added up, never averaged: a
rank's are shares of one objective. Shards of one rank alone are used, too, so that there is one path.

Where products are in bf16, layers are sent in it: what products read they would cast anyway. Norms are rounded with
them. Hidden states, the sums of gradients, embedding, head and tower stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.fsdp._fully_shard._fsdp_common import (  # no public name yet for a parameter's own mesh
    FSDPMeshInfo,
    HSDPMeshInfo,
    ShardPlacementResult,
)
from torch.distributed.tensor import Shard

from open4ov.model.moe import MoE

from . import expert
from .mesh import Mesh
from .stage import Stage
from .tensor import frozen_tower

WHOLE = MixedPrecisionPolicy()
"""Nothing is cast"""


def apply(stage: Stage, mesh: Mesh, gathered: bool = False, half: bool = False) -> None:
    """Shards the stage, after whatever cuts its parameters otherwise. A frozen vision tower stays whole on every rank:
    pictures are then encoded without one rank waiting for another.

    gathered: a layer stays put together after its forward pass. In a pipeline a stage computes all microbatches of a
    step: to gather it for each, and once more for its backward pass, would send the weights that many times.
    half: layers are sent in bf16; they must be computed under its autocast."""
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if half else WHOLE
    over = _submesh(mesh.dense, "fsdp", mesh)
    place = _experts(stage, mesh)
    for _, layer in stage.layers():
        fully_shard(layer, mesh=over, shard_placement_fn=place, reshard_after_forward=not gathered, mp_policy=policy)
        register_fsdp_forward_method(layer, "continued")
    kept = set(frozen_tower(stage))
    if stage.vision is not None and not kept:
        fully_shard(stage.vision, mesh=over, reshard_after_forward=not gathered)
    fully_shard(stage, mesh=over, ignored_params=kept)
    for module in stage.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other with a factor


def _submesh(view: DeviceMesh, axis: str, mesh: Mesh) -> DeviceMesh:
    return view["dp_replicate", axis] if mesh.dp_replicate > 1 else view[axis]


def _experts(stage: Stage, mesh: Mesh) -> Callable[[nn.Parameter], ShardPlacementResult | Shard | None]:
    """Where the parameters of experts are sharded otherwise than a layer's others (`shard_placement_fn`). An expert is
    cut itself where there are fewer experts than ranks, if its width can be."""
    layers = [module for module in stage.modules() if isinstance(module, MoE)]
    experts = {id(p) for layer in layers for p in expert.parameters(layer).values()}
    info = None
    if experts and (mesh.ep > 1 or mesh.tp > 1):
        over = _submesh(mesh.sparse, "efsdp", mesh)
        info = HSDPMeshInfo(over, 1, 0) if mesh.dp_replicate > 1 else FSDPMeshInfo(over, 0)

    def place(parameter: nn.Parameter) -> ShardPlacementResult | Shard | None:
        if id(parameter) not in experts:
            return None
        few = mesh.efsdp > parameter.shape[0] // mesh.ep and parameter.shape[1] % mesh.efsdp == 0
        cut = Shard(1 if few else 0)
        return cut if info is None else ShardPlacementResult(cut, info)

    return place
