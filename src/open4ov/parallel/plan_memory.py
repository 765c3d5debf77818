"""The memory of a rank in training, by what it is for; the fullest rank of the pipeline decides whether a plan fits.

Weights, gradients and Adam's two moments are float32 and sharded; what FSDP puts together is in `plan_fsdp.py`.
Everything is bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from open4ov.model.config import Config
from open4ov.model.losses import LOGITS_AT_ONCE

from . import plan_activations, plan_copies, plan_fsdp, simulate
from .mesh import Mesh
from .plan_activations import RESIDUAL, Sizes
from .plan_shapes import Held, Piece, held
from .plan_spread import Setup

STEP = 4
"""Bytes of AdamW's count of steps, of every parameter that it trains"""


@dataclass(frozen=True)
class States:
    """What a rank holds between steps, exactly."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class RankMemory:
    """One rank of the pipeline. `parts`: bytes of the training by what they are for; `activations`: those of one
    microbatch; `alone`: bytes of the first process while it has the whole model, before and after."""

    rank: int
    parts: Sizes
    activations: Sizes
    in_flight: float
    alone: Sizes = field(default_factory=Counter[str])

    @property
    def training(self) -> int:
        """Bytes of the training itself."""
        return sum(self.parts.values())

    @property
    def fullest(self) -> Sizes:
        """Of the two what needs more."""
        return max(self.parts, self.alone, key=lambda sizes: sum(sizes.values()))

    @property
    def total(self) -> int:
        return sum(self.fullest.values())


@dataclass(frozen=True)
class Host:
    """What a GPU's training needs of its machine's memory, in float32. `reading`: the most that a process reads at once
    of the model's files, its part of one tensor; `checkpoint`: a process's weights and moments, copied to be written
    while the training goes on; `moments`: those that RL puts aside to generate (`rl.rollout.offload`); `whole`: the
    model on the first process, when it is gathered to be saved, and once more where others generate by it."""

    reading: int
    checkpoint: int
    moments: int
    whole: int


def host(setup: Setup) -> Host:
    """Of the process that needs most."""
    kept = [states_of(setup, rank) for rank in range(setup.mesh.pp)]
    served = setup.job.kind == "rl" and setup.job.engine == "other"
    parts = [one.count for rank in range(setup.mesh.pp) for one in setup.held(setup.at(rank))]
    return Host(
        max(parts) * plan_copies.FLOAT32,
        max(one.weights + one.optimizer for one in kept),
        max(one.optimizer for one in kept) if setup.job.offload else 0,
        plan_copies.whole(setup.job.config) * (1 + served),
    )


def states(parameters: list[Held], frozen_vision: bool) -> States:
    """Of these parameters, the tower's without gradient where it is frozen."""
    weights = sum(one.count for one in parameters) * 4
    trained = [one for one in parameters if not (frozen_vision and one.name.startswith("vision."))]
    count = sum(one.count for one in trained)
    return States(weights, count * 4, count * 8 + STEP * len(trained))


def states_of(setup: Setup, rank: int) -> States:
    """Of the process that has most of those with that place in the pipeline."""
    pieces = tuple(setup.stages[stage] for stage in setup.own(rank))
    return _states(setup.job.config, setup.mesh, pieces, setup.at(rank), setup.job.frozen_vision)


@lru_cache(maxsize=4096)
def _states(config: Config, mesh: Mesh, pieces: tuple[Piece, ...], at: int, frozen_vision: bool) -> States:
    parameters = [one for piece in pieces for one in held(config, mesh, piece, at, frozen_vision)]
    return states(parameters, frozen_vision)


def of_rank(setup: Setup, rank: int) -> RankMemory:
    """The memory of the fullest process with that place in the pipeline."""
    job, spread = setup.job, setup.spread
    own = setup.piece(rank)
    kept = states_of(setup, rank)
    parts: Sizes = Counter(weights=kept.weights, gradients=kept.gradients, optimizer=kept.optimizer)
    one: Sizes = Counter()
    for stage in setup.own(rank):
        piece = setup.stages[stage]
        one += plan_activations.forward(
            job.config,
            job.work,
            spread,
            job.recompute,
            job.recompute_vision,
            piece.layers,
            frozen_vision=job.frozen_vision,
            begins=piece.begins,
            ends=piece.ends,
        )
    in_flight = flights(setup)[rank] / setup.chunks
    parts["activations"] += round(sum(one.values()) * in_flight)
    parts["features"] += features(setup) if own.begins else 0
    parts["working"], parts["unsharded"] = max(moments(setup, rank), key=sum)
    if setup.mesh.pp > 1:  # there are no gradients of shards until the whole ones go
        parts["unsharded"] -= min(parts["unsharded"], kept.gradients)
    parts["buffers"] += buffers(setup)
    parts["rollouts"] += plan_copies.engine(setup, rank)
    used = sum(parts.values())
    parts["allocator"] += round(used * setup.hardware.fragments)
    parts["process"] += round(setup.hardware.host * 1e9)
    alone = plan_copies.alone(setup, rank, kept.weights + kept.optimizer)
    return RankMemory(rank, parts, one, in_flight, alone)


def fullest(setup: Setup) -> RankMemory:
    """The rank of the pipeline that needs most."""
    return max((of_rank(setup, rank) for rank in range(setup.mesh.pp)), key=lambda one: one.total)


def flights(setup: Setup) -> list[int]:
    """Microbatches whose activations each rank of the pipeline holds at once, stage by stage."""
    if setup.mesh.pp == 1:
        return [1]
    return _flights(setup.options.schedule, setup.mesh.pp, setup.chunks, setup.microbatches)


@lru_cache(maxsize=4096)
def _flights(schedule: str, pp: int, chunks: int, microbatches: int) -> list[int]:
    return simulate.timeline(schedule, pp, chunks, microbatches, 1.0, 1.0, 1.0).in_flight()


def features(setup: Setup) -> int:
    """The pictures' features and DeepStack's taps of one pack."""
    config, work = setup.job.config, setup.job.work
    taps = 1 + len(config.vision.deepstack_visual_indexes)
    return work.visual(config) * config.text.hidden_size * taps * setup.spread.width


def moments(setup: Setup, rank: int) -> list[tuple[int, int]]:
    """What comes to what is kept when that is most, or soon after: working memory, and FSDP's. At the end of the
    forward pass, while a layer goes backward, and while the tower does."""
    job, own, fsdp = setup.job, setup.piece(rank), plan_fsdp.unsharded(setup, rank)
    head = max(logits(setup), head_gradient(setup)) if own.ends else 0
    found = [
        (max(head, casts(setup, rank)), fsdp.always + fsdp.forward),
        (layer_working(setup, own.layers), fsdp.always + fsdp.layer),
    ]
    if own.begins and job.work.grids and not job.frozen_vision:
        layers = plan_activations.forward(
            job.config, job.work, setup.spread, job.recompute, "none", own.layers, begins=False, ends=False
        )
        gone = sum(layers.values())
        work, tower = tower_working(setup), fsdp.always + fsdp.tower
        found.append((max(0, work - gone), max(0, tower - max(0, gone - work))))
    return found


def layer_working(setup: Setup, layers: tuple[int, ...]) -> int:
    """What is there only while a layer's gradient is worked out: all that it keeps under `none`, where that is computed
    again, and the gradients of its widest results."""
    job, spread = setup.job, setup.spread
    text, most = job.config.text, 0
    for kind in {text.sparse(layer) for layer in layers}:
        layer = next(one for one in layers if text.sparse(one) == kind)
        size = sum(plan_activations.decoder_layer(job.config, layer, job.work, spread, "none").values())
        kept = sum(plan_activations.decoder_layer(job.config, layer, job.work, spread, job.recompute).values())
        if kind:
            rows = spread.shard(job.work.tokens) * text.num_experts_per_tok * spread.imbalance
            wide = rows * max(3 * text.moe_intermediate_size, text.hidden_size)
        else:
            wide = spread.chunk(job.work.tokens) * 3 * (text.intermediate_size // spread.tp)
        most = max(most, size - kept + round(wide) * spread.width)
    return most


def tower_working(setup: Setup) -> int:
    """The same of one of the tower's blocks."""
    grids = plan_activations.own_pictures(setup.job.work.grids, setup.spread)
    return sum(plan_activations.vision_block(setup.job.config, grids, setup.spread, "none").values())


def logits(setup: Setup) -> int:
    """Of one chunk of the head: in the products' type, in float32, and their gradient."""
    config, work, spread = setup.job.config, setup.job.work, setup.spread
    words = -(-config.text.vocab_size // spread.tp)
    at_once = min(LOGITS_AT_ONCE["cuda" if spread.cuda else "cpu"], work.predicted * words)
    return at_once * (4 + 2 * spread.width)


def casts(setup: Setup, rank: int) -> int:
    """Copies of weights that autocast makes and keeps until the forward pass ends, of layers that are computed again;
    of others the graph keeps them (`plan_activations`). Experts' it does not make itself, and keeps none."""
    job, spread = setup.job, setup.spread
    found = plan_fsdp.counts(setup, rank).dense if spread.layers_cast and job.recompute != "none" else 0
    if spread.casts and job.recompute_vision != "none" and setup.piece(rank).begins and job.work.grids:
        found += 0 if job.held_vision else plan_fsdp.vision_count(job.config)
    return found * spread.width


def head_gradient(setup: Setup) -> int:
    """While it is scaled, beside what the loss has kept of it: in float32 and in the products' type. (A CPU has more
    while it is summed: it adds a type to another by a copy.)"""
    config, spread = setup.job.config, setup.spread
    words = -(-config.text.vocab_size // spread.tp) * config.text.hidden_size
    if not spread.half:
        return words * 4
    return words * (6 if spread.cuda else 8)


def buffers(setup: Setup) -> int:
    """What is sent and received at once: the experts' rows both ways, a chunk's hidden states gathered, what crosses a
    border of the pipeline."""
    job, spread, mesh = setup.job, setup.spread, setup.mesh
    text, tokens = job.config.text, job.work.tokens
    state = text.hidden_size * spread.width
    found = 0
    if mesh.ep > 1:
        rows = spread.shard(tokens) * text.num_experts_per_tok
        found += round(rows * (1 + spread.imbalance)) * state
    if mesh.tp > 1:
        found += 2 * spread.chunk(tokens) * state
    if mesh.pp > 1:
        taps = len(job.config.vision.deepstack_visual_indexes)
        # room for every microbatch of the step at each border, forward and backward
        rows = spread.shard(tokens) + taps * job.work.visual(job.config) // (mesh.cp * mesh.tp)
        found += 2 * setup.microbatches * setup.chunks * rows * text.hidden_size * RESIDUAL
    return found
