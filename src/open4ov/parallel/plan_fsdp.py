"""What FSDP puts together of a training's weights and gradients (`fsdp.py`; torch 2.13): how much of it a rank has at
once, and how many numbers it gathers.

Held against what PyTorch allocates by `tests/parallel/test_plan_fsdp.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from open4ov.model.config import Config

from . import plan_activations
from .plan_shapes import layer_parameters, tp_cut, vision_parameters
from .plan_spread import Setup

GATHERED = 4
"""Bytes of a weight as FSDP gathers it in float32, of which autocast makes its copies (else: `Setup.layer_bytes`)"""


@dataclass(frozen=True)
class Unsharded:
    """Bytes on a rank. `always`: for the whole pass (in a pipeline the whole step); `forward`: beside it when a layer
    goes forward; `layer`: when one goes backward; `tower`: when a trained tower does, and what the decoder has kept is
    gone."""

    always: int
    forward: int = 0
    layer: int = 0
    tower: int = 0


def unsharded(setup: Setup, rank: int) -> Unsharded:
    """One process has the model as it is, without FSDP.

    Always there is what is in no block, in float32; the head's gradient is among the activations, and the embedding's
    comes when these are gone. Forward: a layer's weights, which are copied out of what was received, and what was
    received for the layer before, all as they are sent. Backward: its weights and the next one's, its gradient in their
    type, and that of the layer before in float32, until it is reduced; what that layer has kept is gone by then. FSDP
    of one rank fetches nothing early, but copies a gradient twice. A trained tower is a block of its own (a frozen one
    is whole on every rank anyway): its weights twice, or with its gradient, and the gradient of the layer before.

    In a pipeline all weights of a rank's blocks and their gradients in float32, for the whole step, and a layer's
    gradient before it is added to the others', or while it is reduced.
    """
    job, mesh = setup.job, setup.mesh
    if mesh.world == 1:
        return Unsharded(0)
    layers, width, found = setup.piece(rank).layers, setup.layer_bytes, counts(setup, rank)
    sizes = sorted(block_count(job.config, mesh.tp, mesh.ep, layer) for layer in layers)
    largest, alone = max(sizes, default=0), mesh.size("fsdp") == 1
    reduced = largest * (3 if alone else 2) * GATHERED
    if mesh.pp > 1:
        whole = sum(sizes) * (width + GATHERED) + 2 * (found.tower + found.words) * GATHERED
        return Unsharded(whole, layer=reduced - largest * (width + GATHERED))
    kept = min(
        sum(plan_activations.decoder_layer(job.config, layer, job.work, setup.spread, job.recompute).values())
        for layer in layers
    )
    if alone:
        forward, layer = largest * width, max(2 * largest * width, reduced - kept)
    else:
        forward = (largest + sum(sizes[-2:])) * width
        layer = forward + max(0, largest * GATHERED - kept)
    tower = (2 * found.tower + largest) * GATHERED if found.tower else 0
    return Unsharded(found.words * GATHERED, forward, layer, tower)


@dataclass(frozen=True)
class Counts:
    """Numbers that FSDP gathers on a rank of the pipeline: of its layers but for experts, of the experts it computes,
    of a trained tower, and of embedding and head."""

    dense: int
    experts: int
    tower: int
    words: int


def counts(setup: Setup, rank: int) -> Counts:
    """See `Counts`."""
    config, mesh, piece = setup.job.config, setup.mesh, setup.piece(rank)
    text = config.text
    all_of = sum(block_count(config, mesh.tp, mesh.ep, layer) for layer in piece.layers)
    sparse = sum(text.sparse(layer) for layer in piece.layers)
    experts = sparse * text.num_experts // mesh.ep * 3 * text.moe_intermediate_size * text.hidden_size
    tower = vision_count(config) if piece.begins and setup.job.work.grids and not setup.job.frozen_vision else 0
    tables = piece.begins + (piece.ends and not (piece.begins and config.tie_word_embeddings))
    words = tables * -(-text.vocab_size // mesh.tp) * text.hidden_size
    return Counts(all_of - experts, experts, tower, words)


@lru_cache(maxsize=1024)
def block_count(config: Config, tp: int, ep: int, layer: int) -> int:
    """Numbers in a layer as one rank computes it."""
    found = 0
    for name, shape, dim in layer_parameters(config, layer):
        local = list(shape)
        if name in ("mlp.gate_up", "mlp.down"):
            local[0] //= ep
        elif dim is not None:
            local[dim] = tp_cut(config, f".{name}", shape, dim, tp, 0)
        size = 1
        for length in local:
            size *= length
        found += size
    return found


@lru_cache(maxsize=64)
def vision_count(config: Config) -> int:
    """Numbers in the tower."""
    found = 0
    for _, shape, _ in vision_parameters(config):
        size = 1
        for length in shape:
            size *= length
        found += size
    return found
