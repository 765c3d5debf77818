"""One layer with experts, whole and as ranks have it, for tests of what moves tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from open4ov.model import TextConfig
from open4ov.model.moe import MoE, Routing
from open4ov.parallel import expert
from open4ov.parallel.mesh import Mesh

HIDDEN, WIDTH = 16, 24  # neither the width of an expert nor twice it


def layer(experts: int, chosen: int = 2, seed: int = 0) -> MoE:
    moe = MoE(
        TextConfig(
            vocab_size=100,
            hidden_size=HIDDEN,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            mrope_section=(4, 2, 2),
            num_experts=experts,
            num_experts_per_tok=chosen,
            moe_intermediate_size=WIDTH,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    for weight in moe.parameters():
        nn.init.normal_(weight, 0.0, 0.3, generator=generator)
    return moe


def mesh_of(ranks: int, shared: bool = False) -> Mesh:
    """All ranks share the experts, and with `shared` the tokens of one pack."""
    return Mesh(cp=ranks if shared else 1, dp_shard=1 if shared else ranks, ep=ranks).open("cpu")


def on_mesh(whole: MoE, mesh: Mesh, dispatch: str) -> MoE:
    """A copy of the layer as this rank of the mesh has it."""
    mine = copy.deepcopy(whole)
    expert.apply(mine, mesh, dispatch)
    return mine


def own(value: Tensor, mesh: Mesh) -> Tensor:
    """The rows of this rank's experts."""
    return value.chunk(mesh.ep)[mesh.rank("ep")]


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """max|difference| / max|expected| over all tensors and all ranks, the same on each rank."""
    scores = torch.zeros(1)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape, (a.shape, b.shape)
        if a.numel():
            score = (a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-3)
            scores = torch.maximum(scores, score.detach())
    dist.all_reduce(scores, dist.ReduceOp.MAX)
    return float(scores)


@dataclass
class Outcome:
    """What a layer made of its tokens, and the gradients."""

    out: Tensor
    x: Tensor
    router: Tensor
    gate_up: Tensor
    down: Tensor
    routing: Routing


def outcome(moe: MoE, x: Tensor, up: Tensor, times: Tensor | None = None, balance: float = 0.7) -> Outcome:
    """x and up [T, D]: the loss is the product of the outcome with `up`, and `balance` times the balancing loss."""
    moe.zero_grad()
    x = x.clone().requires_grad_()
    routings: list[Routing] = []
    out = moe(x, routings, times)
    ((out * up).sum() + balance * routings[0].balance()).backward()
    assert x.grad is not None
    router, gate_up, down = (local(weight.grad) for weight in (moe.router, moe.gate_up, moe.down))
    return Outcome(out.detach(), x.grad, router, gate_up, down, routings[0].detach())


def local(value: Tensor | None) -> Tensor:
    assert value is not None
    return getattr(value, "_local_tensor", value)
