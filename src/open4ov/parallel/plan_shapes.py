"""Which parameters a rank has, and how large its part of each is: by rule, from the mesh alone.

`plan_check.py` holds this against the model that the training code builds. FSDP cuts a tensor's first dim into equal
runs, rounded up, so that the last ranks may have less, or nothing; tensor parallel cuts before it, the experts' ranks
cut experts, and the pipeline leaves whole layers to each stage.

Names are those of the whole model (`text.layers.0.attention.q.weight`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from open4ov.model.config import Config

from .mesh import Mesh

COLUMN, ROW, VOCABULARY = 0, 1, 0
"""The dim that tensor parallel cuts: of `q` (rows of the weight are its outputs), of `o`, of the words"""


@dataclass(frozen=True)
class Held:
    """One parameter: its shape in the whole model and the part that a rank holds."""

    name: str
    shape: tuple[int, ...]
    local: tuple[int, ...]
    expert: bool = False

    @property
    def full(self) -> int:
        return prod(self.shape)

    @property
    def count(self) -> int:
        """Numbers of it that the rank holds."""
        return prod(self.local)


def cut(length: int, parts: int, at: int) -> int:
    """What part `at` gets of `length`: runs of the quotient rounded up, until nothing is left."""
    size = -(-length // parts)
    return max(0, min(size, length - at * size))


@dataclass(frozen=True)
class Piece:
    """What one rank of the pipeline has: decoder layers, and whether the first and the last stage are among it."""

    layers: tuple[int, ...]
    begins: bool = True
    ends: bool = True


def whole(config: Config) -> Piece:
    """A model that no pipeline cuts."""
    return Piece(tuple(range(config.text.num_hidden_layers)))


def parameters(config: Config, piece: Piece) -> Iterator[tuple[str, tuple[int, ...], int | None]]:
    """(name, shape, the dim that tp cuts; None: none) of all that the piece has, experts' names under `.mlp.`."""
    text, size = config.text, config.text.hidden_size
    if piece.begins:
        yield from vision_parameters(config)
    words = (text.vocab_size, size)
    if piece.begins or (piece.ends and config.tie_word_embeddings):
        yield "text.embed.weight", words, VOCABULARY
    for layer in piece.layers:
        for name, shape, dim in layer_parameters(config, layer):
            yield f"text.layers.{layer}.{name}", shape, dim
    if piece.ends:
        yield "text.norm.weight", (size,), None
        if not config.tie_word_embeddings:
            yield "head.weight", words, VOCABULARY


def layer_parameters(config: Config, layer: int) -> Iterator[tuple[str, tuple[int, ...], int | None]]:
    """Of one decoder layer."""
    text, size, d = config.text, config.text.hidden_size, config.text.head_dim
    queries, keys = text.num_attention_heads * d, text.num_key_value_heads * d
    yield "attention_norm.weight", (size,), None
    for name, width in (("q", queries), ("k", keys), ("v", keys)):
        yield f"attention.{name}.weight", (width, size), COLUMN
        if text.attention_bias:
            yield f"attention.{name}.bias", (width,), COLUMN
    yield "attention.o.weight", (size, queries), ROW
    yield "attention.q_norm.weight", (d,), None
    yield "attention.k_norm.weight", (d,), None
    yield "mlp_norm.weight", (size,), None
    if text.sparse(layer):
        experts, width = text.num_experts, text.moe_intermediate_size
        yield "mlp.router", (experts, size), None
        yield "mlp.gate_up", (experts, 2 * width, size), None
        yield "mlp.down", (experts, size, width), None
        return
    for name in ("gate", "up"):
        yield f"mlp.{name}.weight", (text.intermediate_size, size), COLUMN
    yield "mlp.down.weight", (size, text.intermediate_size), ROW


def vision_parameters(config: Config) -> Iterator[tuple[str, tuple[int, ...], int | None]]:
    """Of the tower."""
    vision, size = config.vision, config.vision.hidden_size
    joined = size * vision.spatial_merge_size**2
    yield "vision.patch.weight", (size, vision.patch_dim), None
    yield "vision.patch.bias", (size,), None
    yield "vision.position.weight", (vision.num_position_embeddings, size), None
    for block in range(vision.depth):
        here = f"vision.blocks.{block}"
        for norm in ("norm1", "norm2"):
            yield f"{here}.{norm}.weight", (size,), None
            yield f"{here}.{norm}.bias", (size,), None
        yield f"{here}.attention.qkv.weight", (3 * size, size), COLUMN
        yield f"{here}.attention.qkv.bias", (3 * size,), COLUMN
        yield f"{here}.attention.proj.weight", (size, size), ROW
        yield f"{here}.attention.proj.bias", (size,), None
        yield f"{here}.mlp.fc1.weight", (vision.intermediate_size, size), COLUMN
        yield f"{here}.mlp.fc1.bias", (vision.intermediate_size,), COLUMN
        yield f"{here}.mlp.fc2.weight", (size, vision.intermediate_size), ROW
        yield f"{here}.mlp.fc2.bias", (size,), None
    for number in range(-1, len(vision.deepstack_visual_indexes)):
        here = "vision.merger" if number < 0 else f"vision.taps.{number}"
        normed = size if number < 0 else joined
        yield f"{here}.norm.weight", (normed,), None
        yield f"{here}.norm.bias", (normed,), None
        yield f"{here}.fc1.weight", (joined, joined), COLUMN
        yield f"{here}.fc1.bias", (joined,), COLUMN
        yield f"{here}.fc2.weight", (vision.out_hidden_size, joined), ROW
        yield f"{here}.fc2.bias", (vision.out_hidden_size,), None


def held(config: Config, mesh: Mesh, piece: Piece, at: int = 0, frozen_vision: bool = False) -> list[Held]:
    """The parameters of the rank `at`, whose place in the pipeline has this `piece`. A frozen tower is whole on every
    rank; tp cuts no tower."""
    tp, fsdp, efsdp = (mesh.rank(axis, at) for axis in ("tp", "fsdp", "efsdp"))
    found: list[Held] = []
    for name, shape, dim in parameters(config, piece):
        local = list(shape)
        expert = name.endswith((".mlp.gate_up", ".mlp.down"))
        if expert:
            local[0] = shape[0] // mesh.ep
            second = mesh.efsdp > local[0] and local[1] % mesh.efsdp == 0
            local[second] = cut(local[second], mesh.efsdp, efsdp)
        elif not (frozen_vision and name.startswith("vision.")):
            if dim is not None and not name.startswith("vision."):
                local[dim] = tp_cut(config, name, shape, dim, mesh.tp, tp)
            local[0] = cut(local[0], mesh.size("fsdp"), fsdp)
        found.append(Held(name, shape, tuple(local), expert))
    return found


def tp_cut(config: Config, name: str, shape: Sequence[int], dim: int, parts: int, at: int) -> int:
    """What tensor parallel leaves of a dim to one rank. Where there are more ranks than key-value heads, each has all
    of these."""
    if parts > config.text.num_key_value_heads and (".attention.k." in name or ".attention.v." in name):
        return shape[dim]
    return cut(shape[dim], parts, at)
