"""A dense model made sparse: every feed-forward cut into experts that together are what it was (granular upcycling).

The result has the parameters of the dense model and the routers', but computes only a share of them for a token. It has
to be trained on: a token now misses the experts that its router leaves out.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from open4ov.errors import UserError

from .moe import MoE
from .qwen3_vl import Qwen3VL
from .text import SwiGLU


@torch.no_grad()
def upcycle(model: Qwen3VL, experts: int, top_k: int, aux_loss: float = 0.001, seed: int = 0) -> Qwen3VL:
    """A model with `experts` experts in every layer, of which each token uses `top_k`, from a dense one.

    Expert e holds the e-th slice of the feed-forward's width. Its output is scaled by `experts`: with router weights
    that sum to one and do not yet know the tokens, a layer gives in the mean what the dense one gave, and exactly that
    when top_k = experts and the router is zero. Routers are drawn from `seed`; `aux_loss` becomes
    `router_aux_loss_coef`.

    Raises UserError when the model has experts already, or its width cannot be cut evenly.
    """
    text = model.config.text
    if text.num_experts:
        raise UserError(f"upcycle: the model has {text.num_experts} experts a layer already; give a dense one")
    width, rest = divmod(text.intermediate_size, experts)
    if rest:
        raise UserError(f"upcycle: intermediate_size {text.intermediate_size} cannot be cut into {experts} experts")
    config = replace(
        model.config,
        text=replace(
            text,
            num_experts=experts,
            num_experts_per_tok=top_k,
            moe_intermediate_size=width,
            router_aux_loss_coef=aux_loss,
        ),
    )
    sparse = Qwen3VL(config, seed)
    kept = {name: value for name, value in model.state_dict().items() if ".mlp." not in name}
    kept |= {name: value for name, value in model.state_dict().items() if name.startswith("vision.")}
    sparse.load_state_dict(kept, strict=False)
    for dense_layer, layer in zip(model.text.layers, sparse.text.layers, strict=True):
        dense, moe = dense_layer.mlp, layer.mlp
        assert isinstance(dense, SwiGLU), dense
        assert isinstance(moe, MoE), moe
        gate, up = (linear.weight.unflatten(0, (experts, width)) for linear in (dense.gate, dense.up))
        moe.gate_up.copy_(torch.cat((gate, up), dim=1))
        moe.down.copy_(experts * dense.down.weight.unflatten(1, (experts, width)).transpose(0, 1))
    return sparse
