"""Floating-point operations of a batch, counted from the configuration: what MFU is measured against.

A multiplication and an addition are two operations. Counted are matrix products only. Causal attention is counted as
causal: token i of a document meets i + 1 keys, not L. Only the experts that a token uses count, padding never does, and
the head counts for the tokens it is applied to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .config import Config


@dataclass(frozen=True)
class Flops:
    """One forward pass by part. `language` is everything of the decoder but `attention` (queries, keys and values
    met), `experts` (router included) and `head`; `vision` is tower, mergers and DeepStack taps."""

    vision: float = 0.0
    language: float = 0.0
    attention: float = 0.0
    experts: float = 0.0
    head: float = 0.0

    @property
    def forward(self) -> float:
        return self.vision + self.language + self.attention + self.experts + self.head

    def training(self, frozen_vision: bool = False, cached_vision: bool = False) -> float:
        """Forward and backward pass; the backward pass costs two forward passes. A frozen vision tower has none, and
        one whose features come from a cache (`cached_vision`) costs nothing at all. Recomputation is not counted."""
        times = 0 if cached_vision else 1 if frozen_vision else 3
        return 3 * (self.forward - self.vision) + times * self.vision


def count(
    config: Config,
    lengths: Sequence[int],
    grids: Sequence[tuple[int, int, int]] = (),
    predicted: int | None = None,
    across: int = 0,
) -> Flops:
    """The forward pass over documents of `lengths` tokens (image tokens included) with images or videos of `grids`
    (frames, rows, columns of patches); the head is applied to `predicted` tokens (None: all). `across`: pairs of a
    token and a key that it meets in a prefix, which is part of another document."""
    text = config.text
    size, heads, head_dim = text.hidden_size, text.num_attention_heads, text.head_dim
    tokens, layers = sum(lengths), text.num_hidden_layers
    sparse = sum(text.sparse(layer) for layer in range(layers))
    projections = size * head_dim * (2 * heads + 2 * text.num_key_value_heads)
    feed_forward = 3 * size * text.intermediate_size
    expert = text.num_experts * size + text.num_experts_per_tok * 3 * size * text.moe_intermediate_size
    pairs = sum(length * (length + 1) // 2 for length in lengths) + across
    return Flops(
        vision=_vision(config, grids),
        language=2 * tokens * (layers * projections + (layers - sparse) * feed_forward),
        attention=2 * layers * pairs * 2 * heads * head_dim,
        experts=2 * tokens * sparse * expert,
        head=2 * (tokens if predicted is None else predicted) * size * text.vocab_size,
    )


def shared_prefix(config: Config, prompt: int, responses: Sequence[int], shared: bool = True) -> Flops:
    """Scoring the responses (tokens each) to one prompt of `prompt` tokens, its vision features given: with the prompt
    computed once, or once for each response. The head is applied to the responses only."""
    if not shared:
        return count(config, [prompt + tokens for tokens in responses], predicted=sum(responses))
    once = count(config, [prompt], predicted=0)
    own = count(config, responses, predicted=sum(responses))
    text = config.text
    across = 2 * text.num_hidden_layers * prompt * sum(responses) * 2 * text.num_attention_heads * text.head_dim
    return Flops(
        language=once.language + own.language,
        attention=once.attention + own.attention + across,
        experts=once.experts + own.experts,
        head=own.head,
    )


def _vision(config: Config, grids: Sequence[tuple[int, int, int]]) -> float:
    vision = config.vision
    size, merge = vision.hidden_size, vision.spatial_merge_size**2
    patches = sum(frames * rows * columns for frames, rows, columns in grids)
    pairs = sum(frames * (rows * columns) ** 2 for frames, rows, columns in grids)
    block = 4 * size * size + 2 * size * vision.intermediate_size
    joined = merge * size
    merger = (1 + len(vision.deepstack_visual_indexes)) * joined * (joined + vision.out_hidden_size)
    matrices = patches * (vision.patch_dim * size + vision.depth * block) + patches // merge * merger
    return 2 * (matrices + vision.depth * pairs * 2 * size)
