"""Expert parallel: each rank of the `ep` axis holds some of a layer's experts, and tokens travel to them (paper §5.1).

`apply` swaps the class of every layer with experts for one that knows the mesh: its experts' parameters are cut on
their first dim, and how tokens and experts meet is a dispatcher's business (`dispatch.py`, by name). The router is
whole on every rank. Its balancing loss is of a whole pack, wherever its tokens lie.

Experts are never cut by tensor parallel; FSDP shards them over the axis `efsdp` (`fsdp.py`).

Shapes: T tokens of this rank, E experts, k experts a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from statistics import fmean
from typing import cast

from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

from open4ov.errors import UserError, nearest
from open4ov.model.moe import MoE

from .deepep import DeepEP
from .dispatch import AllToAll, Local
from .expert_layer import EXPERTS, ParallelMoE
from .mesh import Mesh

DISPATCHERS: dict[str, type[ParallelMoE]] = {"local": Local, "all_to_all": AllToAll, "deepep": DeepEP}
"""What `parallel.dispatch` can be"""


def apply(model: nn.Module, mesh: Mesh, dispatch: str = "all_to_all") -> None:
    """From now on the model's layers with experts compute as part of a mesh; a model without any is left as it is.

    Each rank holds all experts before and its own ones afterwards, as DTensors Shard(0) on the axis `ep`.
    Gradients are sums over this rank's tokens, and of experts over the tokens of all `ep` ranks; whoever adds up over
    other axes must not average.

    Raises UserError for an unknown dispatcher, one that cannot work here, and experts that the ranks cannot share.
    """
    if dispatch not in DISPATCHERS:
        known = ", ".join(DISPATCHERS)
        raise UserError(f"parallel.dispatch: '{dispatch}' is unknown{nearest(dispatch, DISPATCHERS)}; use {known}")
    kind, ranks = DISPATCHERS[dispatch], mesh.size("ep")
    for name, layer in list(_layers(model)):
        experts = layer.gate_up.shape[0]
        if experts % ranks:
            raise UserError(f"parallel.ep: {ranks} ranks cannot share the {experts} experts of {name}; use a divisor")
        for part, value in parameters(layer).items():
            if ranks > 1:
                # every rank has the whole and keeps its part: nothing is sent
                own = distribute_tensor(value.detach(), mesh.sparse["ep"], [Shard(0)], src_data_rank=None)
                setattr(layer, part, nn.Parameter(own, requires_grad=value.requires_grad))
        layer.__class__ = _on(type(layer), kind)
        mine = cast(ParallelMoE, layer)
        mine.ep, mine.seq = mesh.group("ep"), mesh.group("seq")
        mine.load = []
        mine.prepare()


def parameters(layer: MoE) -> dict[str, nn.Parameter]:
    """Those that hold experts, by name: what `ep` cuts, and FSDP shards over `efsdp`. All others are dense."""
    return {name: p for name, p in layer.named_parameters(recurse=False) if name in EXPERTS}


def shares(model: nn.Module) -> list[float]:
    """For each layer with experts, how much more the busiest rank's computed than the mean of the `ep` ranks, in the
    last pass: 1 when all are even; the rest is what the others wait for. Empty where it is not known: `all_to_all`
    alone counts."""
    loads = [layer.load for _, layer in _layers(model) if isinstance(layer, ParallelMoE)]
    return [max(load) * len(load) / max(1, sum(load)) for load in loads if load]


def figures(uneven: Sequence[float]) -> dict[str, float]:
    """For a training's curve, the mean of the layers that this rank has (`shares`); empty where there are none."""
    return {"expert_imbalance": round(fmean(uneven), 4)} if uneven else {}


def _layers(model: nn.Module) -> Iterable[tuple[str, MoE]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, MoE))


@cache
def _on(plain: type[MoE], kind: type[ParallelMoE]) -> type[ParallelMoE]:
    """A dispatcher's class over a layer's own, with or without adapters."""
    return cast(type[ParallelMoE], type(f"{kind.__name__}{plain.__name__}", (kind, plain), {}))
