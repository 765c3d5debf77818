"""What a forward pass keeps for its backward pass, counted operator by operator as `model/` has them.

`none` keeps what each operator's gradient reads, `op` the results of products and of attention (`recompute.KEPT`), and
`full` a layer's input. Sizes are bytes of one rank and one pack. Held against what PyTorch really keeps by
`tests/parallel/test_plan_activations.py`.

Shapes: T tokens of the pack, C of the chunk (T / cp), S of the shard (C / tp), D hidden, Q queries' and K keys' width
of all heads, F feed-forward's width, P patches, A assignments to experts, W an expert's width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from open4ov.model.attention import FEW, LIKE, SHORT
from open4ov.model.config import Config

from .plan_job import Work
from .recompute import Mode

Sizes = Counter[str]
"""Bytes by what they are"""
RESIDUAL = 4
"""Bytes of a number of the residual stream: autocast leaves embedding and sums in float32"""


@dataclass(frozen=True)
class Spread:
    """How the computation of a pack is cut, and what it is computed on. `cuda`: the packed attention kernel (`varlen`).
    Otherwise as on a CPU: documents are padded in groups of like length."""

    tp: int = 1
    cp: int = 1
    ep: int = 1
    half: bool = True
    cuda: bool = True
    imbalance: float = 1.0
    whole_vision: bool = False
    """each rank of cp x tp encodes all pictures"""
    sent_half: bool = False
    """FSDP sends the decoder layers' weights in the products' type"""

    @property
    def width(self) -> int:
        """Bytes of a number in products."""
        return 2 if self.half else 4

    @property
    def casts(self) -> bool:
        """Whether products read copies of their weights, as autocast makes them, which the graph keeps unless the layer
        is computed again. The decoder's do not where FSDP sends them so."""
        return self.half

    @property
    def layers_cast(self) -> bool:
        return self.casts and not self.sent_half

    def chunk(self, tokens: int) -> int:
        return -(-tokens // (self.cp * self.tp)) * self.tp

    def shard(self, tokens: int) -> int:
        return -(-tokens // (self.cp * self.tp))


def decoder_layer(config: Config, layer: int, work: Work, spread: Spread, mode: Mode, rows: int | None = None) -> Sizes:
    """What one decoder layer keeps. rows: tokens that its second half is computed for (None: all), as the last layer
    does on a rank that has the whole pack."""
    text, tp = config.text, spread.tp
    size, heads, head_dim = text.hidden_size, text.num_attention_heads, text.head_dim
    queries = heads * head_dim // tp
    kv_heads = max(text.num_key_value_heads // tp, 1)
    keys = kv_heads * head_dim
    chunk, shard, width = spread.chunk(work.tokens), spread.shard(work.tokens), spread.width
    found: Sizes = Counter()
    found["layer inputs"] += shard * size * RESIDUAL
    if mode == "full":
        return found
    sparse = text.sparse(layer)
    after = chunk if rows is None or sparse else rows
    if mode == "op":
        found["projections"] += chunk * (queries + 2 * keys) * width
        found += _attention_kept(config, work, spread)
        found["projections"] += after * size * width  # what `o` gives
    else:
        found["norms"] += shard * 4 + chunk * size * width  # statistics; the result, which the projections read
        found["projections"] += chunk * (queries + keys) * width  # before they are normalised; values go on as they are
        found["norms"] += chunk * (heads // tp + kv_heads) * 4
        found += _attention(config, work, spread, rows if not sparse else None)
        # its half: residual and norm
        found["norms"] += (after if tp == 1 else shard) * (size * RESIDUAL + 4) + after * size * width
        if spread.layers_cast:
            found["weight copies"] += (2 * queries + 2 * keys) * size * 2
    if sparse:
        found += _experts(config, work, spread, mode)
    elif mode == "op":
        found["feed-forward"] += after * (2 * text.intermediate_size // tp + size) * width
    else:
        found["feed-forward"] += after * 4 * (text.intermediate_size // tp) * width
        if spread.layers_cast:
            found["weight copies"] += 3 * (text.intermediate_size // tp) * size * 2
    return found


def _experts(config: Config, work: Work, spread: Spread, mode: Mode) -> Sizes:
    """Router, dispatch, products. Of the assignments of this rank's tokens as many arrive from others, more by the
    imbalance on the busiest one."""
    text, width = config.text, spread.width
    shard, size, expert = spread.shard(work.tokens), text.hidden_size, text.moe_intermediate_size
    sent = shard * text.num_experts_per_tok
    arrive = sent * (spread.imbalance if spread.ep > 1 else 1.0)
    found: Sizes = Counter()
    if mode == "op":
        found["router"] += shard * text.num_experts * width
        found["experts"] += round(arrive * (2 * expert + size)) * width
        if spread.ep > 1:  # what was sent and what came back: nothing travels twice
            found["experts"] += (round(arrive) + sent) * size * width
        return found
    # probabilities in float32; the chosen ones before and after they are made to sum to 1, their places, and where rows
    # of the sorted assignments are from
    found["router"] += shard * (text.num_experts * 4 + 4) + sent * (4 + 8 + 8 + 8 + width)
    # rows that arrive and what is made of them; what came back, and the same weighed: index_add keeps it for its shape
    found["experts"] += round(arrive * (size + 4 * expert)) * width + 2 * sent * size * width
    if spread.ep > 1:
        found["router"] += round(arrive) * 16  # the order in which rows are laid, and back
    if spread.layers_cast:
        found["weight copies"] += text.num_experts // spread.ep * 3 * expert * size * 2
    return found


def _attention(config: Config, work: Work, spread: Spread, rows: int | None) -> Sizes:
    """Queries, keys and values as they are multiplied, the result, and what the softmax is worked out from again."""
    text, width = config.text, spread.width
    heads, kv, slots, squares, padded = _local(config, work, spread)
    d = text.head_dim
    packed = spread.chunk(work.tokens) * (text.num_attention_heads // spread.tp) * d * width
    if rows is not None:
        packed = rows * text.num_attention_heads * d * width
    found: Sizes = Counter()
    found["attention"] += slots * (heads + 2 * kv) * d * width
    explicit = squares * heads * width
    if explicit:
        found["attention"] += explicit + packed
        return found
    found["attention"] += slots * heads * (d * width + 4)
    if padded or spread.cp > 1 or rows is not None:
        found["attention"] += packed  # a copy: padding taken out, heads brought back to their tokens, or some rows
    return found


def _attention_kept(config: Config, work: Work, spread: Spread) -> Sizes:
    heads, _, slots, squares, _ = _local(config, work, spread)
    found: Sizes = Counter()
    found["attention"] += slots * heads * config.text.head_dim * spread.width
    found["attention"] += squares * heads * spread.width if squares else slots * heads * 4
    return found


def _local(config: Config, work: Work, spread: Spread) -> tuple[int, int, int, int, bool]:
    """Heads and key-value heads of this rank, slots of all documents, squares of their lengths where the explicit
    product keeps its weights, and whether documents were padded."""
    ranks = spread.tp * spread.cp
    heads, kv = config.text.num_attention_heads // ranks, max(config.text.num_key_value_heads // ranks, 1)
    groups, padded = layouts(work.documents, spread)
    slots = sum(count * longest for count, longest in groups)
    short = spread.half and not spread.cuda and all(longest <= SHORT for _, longest in groups)
    squares = sum(count * longest**2 for count, longest in groups) if short else 0
    return heads, kv, slots, squares, padded


def layouts(lengths: Sequence[int], spread: Spread) -> tuple[tuple[tuple[int, int], ...], bool]:
    """How documents are laid out for attention: how many of which padded length, and whether any is padded."""
    if spread.cuda and spread.half:
        return ((1, sum(lengths)),), False
    return _groups(tuple(lengths)), len(set(lengths)) > 1


@cache
def _groups(lengths: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """As `attention.Groups` has them."""
    groups: list[tuple[int, int]] = []
    for length in sorted(lengths, reverse=True):
        longest = groups[-1][1] if groups else 0
        if not groups or (longest > FEW and length < LIKE * longest):
            groups.append((0, length))
        groups[-1] = groups[-1][0] + 1, groups[-1][1]
    return tuple(groups)


def vision_block(config: Config, grids: Sequence[tuple[int, int, int]], spread: Spread, mode: Mode) -> Sizes:
    """What one block of the tower keeps, where it is trained."""
    vision, width = config.vision, spread.width
    frames = [rows * columns for count, rows, columns in grids for _ in range(count)]
    patches, size, ffn = sum(frames), vision.hidden_size, vision.intermediate_size
    groups, padded = layouts(frames, spread)
    slots = sum(count * longest for count, longest in groups)
    short = spread.half and not spread.cuda and all(longest <= SHORT for _, longest in groups)
    squares = sum(count * longest**2 for count, longest in groups) if short else 0
    found: Sizes = Counter()
    found["vision"] += patches * size * width  # the block's input
    if mode == "full":
        return found
    kept = squares * vision.num_heads * width if squares else slots * vision.num_heads * 4
    if mode == "op":
        found["vision"] += patches * (3 * size + 2 * size + ffn) * width + slots * size * width + kept
        return found
    # both norms' results, the second one's input, statistics
    found["vision"] += patches * (3 * size * width + 16)
    # queries and keys turned; values, where they are no copy, keep the queries and keys of before with them
    copied = padded or bool(squares)
    found["vision"] += slots * size * width * (3 if copied else 5) + kept
    found["vision"] += patches * size * width  # attention's result
    if padded and not squares:
        found["vision"] += slots * size * width
    found["vision"] += patches * 2 * ffn * width
    if spread.casts:
        found["weight copies"] += (4 * size * size + 2 * size * ffn) * 2
    return found


def vision_ends(config: Config, grids: Sequence[tuple[int, int, int]], spread: Spread) -> Sizes:
    """What patch embedding, merger and taps keep: these are never recomputed."""
    vision, width = config.vision, spread.width
    patches = sum(count * rows * columns for count, rows, columns in grids)
    mergers = 1 + len(vision.deepstack_visual_indexes)
    found: Sizes = Counter()
    found["vision"] += patches * vision.patch_dim * (width if spread.half else 0)  # as they are read; float32 is given
    found["vision"] += patches * vision.hidden_size * width * (1 + 3 * mergers)
    if spread.casts:
        joined = vision.hidden_size * vision.spatial_merge_size**2
        found["weight copies"] += mergers * joined * (joined + vision.out_hidden_size) * 2
    return found


def loss(config: Config, work: Work, spread: Spread) -> Sizes:
    """The gradients that the fused head has already worked out (`model/losses.py`), and the final norm."""
    size, rows = config.text.hidden_size, work.predicted
    found: Sizes = Counter()
    found["loss"] += rows * size * (RESIDUAL + spread.width) + rows * 4
    found["loss"] += config.text.vocab_size // spread.tp * size * 4  # the head's gradient is summed in float32
    return found


def forward(
    config: Config,
    work: Work,
    spread: Spread,
    language: Mode,
    vision: Mode,
    layers: Sequence[int] | None = None,
    *,
    frozen_vision: bool = False,
    begins: bool = True,
    ends: bool = True,
) -> Sizes:
    """All that one pack's forward pass keeps on a rank that has these decoder layers (None: all); `begins`: with the
    tower; `ends`: with the head."""
    count = config.text.num_hidden_layers
    chosen = range(count) if layers is None else layers
    taps = len(config.vision.deepstack_visual_indexes) if work.grids else 0
    early = ends and spread.tp * spread.cp == 1 and count > taps
    found: Sizes = Counter()
    kinds = Counter((config.text.sparse(layer), early and layer == count - 1) for layer in chosen)
    for (sparse, last), number in kinds.items():
        layer = next(layer for layer in chosen if config.text.sparse(layer) == sparse)
        one = decoder_layer(config, layer, work, spread, language, work.predicted if last else None)
        found.update({name: size * number for name, size in one.items()})
    if chosen:
        found["rotation"] += spread.chunk(work.tokens) * config.text.head_dim * 2 * 4
    if begins and work.grids and not frozen_vision:
        grids = own_pictures(work.grids, spread)
        block = vision_block(config, grids, spread, vision)
        found.update({name: size * config.vision.depth for name, size in block.items()})
        found += vision_ends(config, grids, spread)
    if ends:
        found += loss(config, work, spread)
    return found


def own_pictures(grids: Sequence[tuple[int, int, int]], spread: Spread) -> Sequence[tuple[int, int, int]]:
    """The pictures that one rank of cp x tp encodes: the most that any has."""
    ranks = 1 if spread.whole_vision else spread.tp * spread.cp
    return grids[: -(-len(grids) // ranks)]
