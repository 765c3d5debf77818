"""How long an optimizer step takes, and what share of the devices' peak that is.

A stage's time for a microbatch is its counted operations over the peak's share that such work reaches
(`hardware.yaml`), and what it has to wait for: collectives of tp, cp and ep stand in the way of the computation, FSDP's
run beside it and count as far as they take longer. The stages are then played through (`simulate.py`). Recomputation is
time, not MFU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from open4ov.model.config import Config
from open4ov.model.flops import Flops, count

from . import simulate
from .plan_activations import own_pictures
from .plan_memory import of_rank, states_of
from .plan_spread import Setup
from .plan_traffic import Traffic, of_step

BLOCKING = ("tp", "cp", "ep", "cp x tp")
"""Axes whose collectives nothing is computed beside"""
MFU = (
    "MFU counts matrix products only: causal attention as causal, the experts that a token uses, the head for the "
    "tokens it is applied to; nothing for padding or for what is recomputed"
)
"""The convention, printed with each figure"""


@dataclass(frozen=True)
class Seconds:
    """Of a step. `compute`: the busiest rank's products; `recompute`: those done again; `exposed`: waiting for
    collectives; `bubble`: the mean rank's waiting for others, as a share of the pipeline's time; `optimizer`; `total`.
    `mfu` of all, and of that the decoder's and the tower's part. `imbalance`: the slowest rank of the pipeline over the
    mean."""

    total: float
    compute: float
    recompute: float
    exposed: float
    optimizer: float
    bubble: float
    imbalance: float
    mfu: float
    mfu_decoder: float
    mfu_vision: float
    tokens_per_second: float
    traffic: tuple[Traffic, ...]


@dataclass(frozen=True)
class _Pass:
    """Of one stage and microbatch, in seconds: forward, backward to its input, backward to its weights."""

    forward: float
    inputs: float
    weights: float
    again: float
    exposed: float

    @property
    def total(self) -> float:
        return self.forward + self.inputs + self.weights


@lru_cache(maxsize=4096)
def layer_flops(config: Config, sparse: bool, lengths: tuple[int, ...], across: int) -> Flops:
    """The forward pass of one decoder layer over documents of these lengths."""
    text = replace(config.text, num_hidden_layers=1, decoder_sparse_step=1, mlp_only_layers=() if sparse else (0,))
    vision = replace(config.vision, deepstack_visual_indexes=())
    return count(replace(config, text=text, vision=vision), lengths, predicted=0, across=across)


@lru_cache(maxsize=4096)
def ends_flops(config: Config, grids: tuple[tuple[int, int, int], ...], predicted: int) -> tuple[float, float]:
    """The tower's forward pass over pictures, and the head's over tokens."""
    text = replace(config.text, num_hidden_layers=len(config.vision.deepstack_visual_indexes) or 1)
    found = count(replace(config, text=text), [1], grids, predicted)
    return found.vision, found.head


def step(setup: Setup) -> Seconds:
    """The optimizer step of a job on its mesh."""
    job, mesh, hardware, m = setup.job, setup.mesh, setup.hardware, setup.microbatches
    by_rank = [of_step(setup, rank) for rank in range(mesh.pp)]
    passes = [_stage(setup, stage, by_rank) for stage in range(len(setup.stages))]
    slowest = max(range(mesh.pp), key=lambda rank: sum(passes[stage].total for stage in setup.own(rank)))
    sends = [one.seconds / m for own in by_rank for one in own if one.axis == "pp"]
    if mesh.pp == 1:
        time, bubble, imbalance = passes[0].total * m, 0.0, 1.0
    else:
        line = simulate.timeline(
            setup.options.schedule,
            mesh.pp,
            setup.chunks,
            m,
            [one.forward for one in passes],
            [one.inputs for one in passes],
            [one.weights for one in passes],
            send=max(sends, default=0.0) / 2,
        )
        busy = line.busy()
        time, bubble, imbalance = line.seconds, line.bubble, max(busy) * len(busy) / sum(busy)
    own = [passes[stage] for stage in setup.own(slowest)]
    hidden = sum(one.total - one.exposed for one in own) * m
    beside = sum(one.seconds for one in by_rank[slowest] if one.axis in ("fsdp", "efsdp"))
    copies = sum(one.seconds for one in by_rank[slowest] if one.axis == "dp_replicate")
    last = sum(one.inputs + one.weights for one in own)  # copies add up beside the last backward pass only
    over = max(0.0, beside - hidden) + max(0.0, copies - last)
    kept = states_of(setup, slowest)
    # read and written: weights, both moments; read: gradients, for their norm too
    optimizer = (2 * kept.weights + 2 * kept.gradients + 2 * kept.optimizer) / (hardware.bandwidth * 1e9)
    total = time + over + optimizer
    decoder, tower = operations(setup)
    all_of = total * hardware.peak * 1e12 * mesh.world
    return Seconds(
        total=total,
        compute=sum(one.total - one.again - one.exposed for one in own) * m,
        recompute=sum(one.again for one in own) * m,
        exposed=sum(one.exposed for one in own) * m + over,
        optimizer=optimizer,
        bubble=bubble,
        imbalance=imbalance,
        mfu=(decoder + tower) / all_of,
        mfu_decoder=decoder / all_of,
        mfu_vision=tower / all_of,
        tokens_per_second=job.step_tokens / total,
        traffic=tuple(by_rank[slowest]),
    )


def operations(setup: Setup) -> tuple[float, float]:
    """What a step's MFU counts: the decoder's operations, its head among them, and the tower's."""
    job, work = setup.job, setup.job.work
    found = count(job.config, work.documents, work.grids, work.predicted, work.across)
    language = 3 * (found.forward - found.vision)
    return language * job.packs, found.training(job.frozen_vision, job.held_vision) * job.packs - language * job.packs


def _stage(setup: Setup, stage: int, by_rank: Sequence[Sequence[Traffic]]) -> _Pass:
    job, work, mesh, hardware = setup.job, setup.job.work, setup.mesh, setup.hardware
    piece, share, peak = setup.stages[stage], hardware.efficiency, hardware.peak * 1e12
    ranks = mesh.cp * mesh.tp
    layers = 0.0
    for sparse, number in Counter(job.config.text.sparse(layer) for layer in piece.layers).items():
        one = layer_flops(job.config, sparse, work.documents, work.across)
        products = one.language / share.dense + one.attention / share.attention
        layers += number * (products + one.experts / share.experts * setup.spread.imbalance)
    layers /= peak * ranks
    own_grids = tuple(own_pictures(work.grids, setup.spread))
    vision, head = ends_flops(job.config, own_grids, work.predicted)
    tower = vision / share.vision / peak if piece.begins and not job.held_vision else 0.0
    words = head / share.head / peak / mesh.tp / (mesh.cp if mesh.cp > 1 else 1) if piece.ends else 0.0
    rank = next(rank for rank in range(mesh.pp) if stage in setup.own(rank))
    waiting = sum(one.seconds for one in by_rank[rank] if one.axis in BLOCKING) / setup.microbatches / setup.chunks
    forward = layers + tower
    again = layers if job.recompute == "full" else 0.0
    trained = 0.0 if job.frozen_vision else tower
    if job.recompute_vision == "full":
        again += trained
    # the fused head works its gradients out with the value (`model/losses.py`)
    return _Pass(
        forward=forward + 3 * words + waiting / 2,
        inputs=layers + trained + again + waiting / 2,
        weights=layers + trained,
        again=again,
        exposed=waiting,
    )


def fits(setup: Setup) -> tuple[bool, float, int]:
    """Whether the fullest rank fits, the bytes that are left (negative: missing), and which rank of the pipeline."""
    most = max((of_rank(setup, rank) for rank in range(setup.mesh.pp)), key=lambda one: one.total)
    left = setup.hardware.memory * 1e9 - most.total
    return left >= 0, left, most.rank
