"""What one rank sends in an optimizer step, axis by axis, and how long the link takes for it.

T tokens of a pack, C = T / cp, S = C / tp, D hidden; t, c, e, F ranks of tp, cp, ep, fsdp. Ring collectives send
(n - 1) / n of the whole; a ring through whole nodes leaves each by all of its ports, so that it is as fast as the
ports together; in an all-to-all each rank has its own port only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from . import plan_fsdp
from .plan_activations import RESIDUAL
from .plan_hardware import Hardware
from .plan_memory import features
from .plan_spread import Setup


@dataclass(frozen=True)
class Traffic:
    """Of one axis. `bytes`: sent by a rank in a step; `seconds`: on its link, if nothing else is on it; `what`: in
    words."""

    axis: str
    what: str
    bytes: float
    seconds: float
    link: Literal["node", "network"]


def ring(hardware: Hardware, ranks: int, stride: int) -> float:
    """Bytes a second of a ring over `ranks` that lie `stride` apart."""
    own = min(ranks, max(hardware.node // stride, 1))
    speed = hardware.inside if own == ranks else min(hardware.inside, hardware.outside * own)
    return speed * hardware.link_share * 1e9


def exchange(hardware: Hardware, ranks: int, stride: int) -> float:
    """Bytes a second of an all-to-all."""
    own = min(ranks, max(hardware.node // stride, 1))
    if own == ranks:
        return hardware.inside * hardware.link_share * 1e9
    beyond = (ranks - own) / (ranks - 1)
    return min(hardware.inside / (1 - beyond) if beyond < 1 else float("inf"), hardware.outside / beyond) * (
        hardware.link_share * 1e9
    )


def of_step(setup: Setup, rank: int = 0) -> list[Traffic]:
    """Of the rank of the pipeline that is asked for."""
    return [one for one in (*_of_layers(setup, rank), *_of_weights(setup, rank)) if one.bytes]


def _made(setup: Setup, axis: str, what: str, size: float, ranks: int, stride: int, kind: str = "ring") -> Traffic:
    speed = (ring if kind == "ring" else exchange)(setup.hardware, ranks, stride)
    link = "node" if setup.hardware.local(ranks, stride) else "network"
    return Traffic(axis, what, size, size / speed, link)


def _of_layers(setup: Setup, rank: int) -> list[Traffic]:
    """What grows with tokens: of all microbatches."""
    job, mesh, spread, m = setup.job, setup.mesh, setup.spread, setup.microbatches
    text, tokens, width = job.config.text, job.work.tokens, setup.spread.width
    layers = setup.piece(rank).layers
    sparse = sum(text.sparse(layer) for layer in layers)
    chunk, shard, size = spread.chunk(tokens), spread.shard(tokens), text.hidden_size
    again = 2 if job.recompute != "none" else 0
    found: list[Traffic] = []
    if mesh.tp > 1:
        share = (mesh.tp - 1) / mesh.tp
        # attention gathers and scatters, forward and backward; so does the feed-forward, but for experts
        halves = 2 * len(layers) - sparse
        sent = (4 + again) * share * chunk * size * width * halves * m
        found.append(_made(setup, "tp", "hidden states gathered and scattered", sent, mesh.tp, 1))
    if mesh.cp > 1:
        share = (mesh.cp - 1) / mesh.cp
        kv = max(text.num_key_value_heads, mesh.cp * mesh.tp)
        heads = 2 * text.num_attention_heads + 2 * kv
        times = 2 if job.recompute == "none" else 3
        sent = times * share * shard * heads * text.head_dim * width * len(layers) * m
        found.append(_made(setup, "cp", "heads against tokens", sent, mesh.cp, mesh.tp, "exchange"))
    if mesh.ep > 1:
        share = (mesh.ep - 1) / mesh.ep
        times = 6 if job.recompute == "full" else 4  # `op` keeps what has travelled
        rows = shard * text.num_experts_per_tok * spread.imbalance
        sent = times * share * rows * size * width * sparse * m
        found.append(_made(setup, "ep", "rows to their experts and back", sent, mesh.ep, 1, "exchange"))
    if mesh.pp > 1:
        taps = len(job.config.vision.deepstack_visual_indexes)
        borders = setup.own(rank)
        sent = 0.0
        for stage in borders:
            if stage < len(setup.stages) - 1:
                crossing = max(0, taps - setup.stages[stage].layers[-1] - 1)
                sent += (
                    (shard * size + crossing * job.work.visual(job.config) // (mesh.cp * mesh.tp) * size) * RESIDUAL * m
                )
        found.append(_made(setup, "pp", "hidden states and taps", 2 * sent, 2, mesh.world // mesh.pp, "exchange"))
    ranks = mesh.cp * mesh.tp
    if ranks > 1 and setup.piece(rank).begins and setup.options.vision == "pictures" and not job.held_vision:
        sent = 2 * (ranks - 1) / ranks * features(setup) * m
        found.append(_made(setup, "cp x tp", "pictures' features gathered", sent, ranks, 1))
    return found


def _of_weights(setup: Setup, rank: int) -> list[Traffic]:
    """What grows with parameters."""
    mesh, m, found = setup.mesh, setup.microbatches, plan_fsdp.counts(setup, rank)
    # each pass gathers weights forward and backward, but what is in no block once, and reduces their gradients; a
    # pipeline does so once a step; copies add up once a step
    gathers, reduces, once = (1, 1, 1) if mesh.pp > 1 else (2 * m, m, m)
    width, whole = setup.layer_bytes, plan_fsdp.GATHERED
    dense = gathers * (found.dense * width + found.tower * whole) + once * found.words * whole
    sums: list[Traffic] = []
    for axis, ranks, stride, count, gathered in (
        ("fsdp", mesh.size("fsdp"), mesh.tp, found.dense + found.tower + found.words, dense),
        ("efsdp", mesh.efsdp, mesh.ep, found.experts, gathers * found.experts * width),
    ):
        if ranks > 1 and count:
            share = (ranks - 1) / ranks
            sent = share * (gathered + reduces * whole * count)
            sums.append(_made(setup, axis, "weights gathered, gradients reduced", sent, ranks, stride))
        if mesh.dp_replicate > 1 and count:
            sent = 2 * (mesh.dp_replicate - 1) / mesh.dp_replicate * 4 * count / ranks
            far = mesh.dp_shard * mesh.cp * mesh.tp
            what = f"gradients of {axis}'s shards summed"
            sums.append(_made(setup, "dp_replicate", what, sent, mesh.dp_replicate, far))
    return sums
