"""Whole models beside the parts that are trained: the rollout engine's, and the first process's own before and after.

Both are float32, but for what an engine that computes in bf16 reads by products only (`engine/half.py`). No
training reads the model whole (`pretrained.opened`): the engine's is gathered from the parts, tensor by tensor, and so
is the first process's after the training, on the CPU; before it, that reads it to grade, filter or make pairs.
Everything is bytes.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from open4ov.model.config import Config

from .mesh import Mesh
from .plan_activations import Sizes
from .plan_shapes import Held, Piece, held
from .plan_spread import Setup

FLOAT32, HALF = 4, 2


@lru_cache(maxsize=64)
def whole(config: Config, tower: bool = True, half: bool = False) -> int:
    """The model in one process. half: the decoder's products are bf16."""
    layers = tuple(range(config.text.num_hidden_layers))
    parameters = held(config, Mesh(), Piece(layers, True, True), 0, False)
    return sum(
        one.count * (HALF if half and _product(one) else FLOAT32)
        for one in parameters
        if tower or not one.name.startswith("vision.")
    )


def _product(one: Held) -> bool:
    """As `products` of `engine/half.py` has it; a test compares the two."""
    return one.name == "head.weight" or (one.name.startswith("text.layers.") and len(one.shape) > 1)


def engine(setup: Setup, rank: int) -> int:
    """What the rollout engine keeps on a rank of the pipeline while the policy is updated: on many processes the whole
    weights (a frozen tower is the policy's own), once more where it generates ahead or quantised (counted as the first,
    which is more than the latter has), and its keys and values where they are not given up, with the copy in bf16 of a
    head that is the embedding. What many processes send to others (servers, vLLM) lies on the first one's CPU."""
    job = setup.job
    if job.kind != "rl" or (job.engine == "other" and setup.mesh.world > 1):
        return 0
    copies = job.copies + (setup.mesh.world > 1)
    tower = not (job.frozen_vision and setup.piece(rank).begins)
    text = job.config.text
    each = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * setup.spread.width
    tied = job.half and job.cached and job.config.tie_word_embeddings
    head = HALF * text.vocab_size * text.hidden_size if tied else 0
    return copies * whole(job.config, tower, job.engine_half) + job.cached * each + head


def alone(setup: Setup, rank: int, kept: int) -> Sizes:
    """The first process while it has the whole model to itself: it grades, filters or makes pairs before and after the
    training, by our engine; for others that generate in RL the model is on the CPU. kept: what it has of the training
    meanwhile, in SFT, whose stage may go on."""
    job = setup.job
    if setup.mesh.world == 1 or rank or not job.whole or (job.kind == "rl" and job.engine == "other"):
        return Counter()
    half = job.engine_half if job.kind == "rl" else job.half
    parts: Sizes = Counter(whole=whole(job.config, half=half), process=round(setup.hardware.host * 1e9))
    if job.kind == "sft":
        parts["training"] = kept
    return parts
