"""The vision tower: patches in, merged visual tokens and DeepStack features out. Images of any size in one pack.

Shapes: P patches of all images, D hidden of the tower, N images, F frames (an image is one), L most patches of a
frame, M = P / merge² merged tokens, O hidden of the decoder. Patches come in merge-block order (2x2 neighbours are
consecutive), as the processor lays them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import attention
from .config import VisionConfig
from .rope import rotate, vision_angles


@dataclass
class VisionFeatures:
    """What the decoder gets of images: `merged` [M, O] replaces their placeholder embeddings, `deepstack[i]` [M, O] is
    added after decoder layer i."""

    merged: Tensor
    deepstack: list[Tensor]

    def split(self, grids: Tensor) -> list[VisionFeatures]:
        """One for each image of `grids` [N, 3]."""
        patches = grids.prod(1)
        unit = int(patches.sum()) // max(len(self.merged), 1)
        sizes = [n // unit for n in patches.tolist()]
        parts = zip(*(x.split(sizes) for x in (self.merged, *self.deepstack)), strict=True)
        return [VisionFeatures(merged, list(taps)) for merged, *taps in parts]

    @staticmethod
    def cat(features: list[VisionFeatures]) -> VisionFeatures:
        """End to end, in the order of the images in the pack."""
        merged = torch.cat([f.merged for f in features])
        return VisionFeatures(merged, [torch.cat(taps) for taps in zip(*(f.deepstack for f in features), strict=True)])

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.merged, *self.deepstack))

    def detach(self) -> VisionFeatures:
        return VisionFeatures(self.merged.detach(), [x.detach() for x in self.deepstack])


class VisionAttention(attention.Attention):
    """The projections of full attention inside an image."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)


class VisionMLP(nn.Module):
    """Two layers with the tanh form of GELU between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    """One block; `forward` takes tensors only, so `block.compile(dynamic=True)` works from outside."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.attention = VisionAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, frames: attention.Documents) -> Tensor:
        """x [P, D], cos and sin [P, d]; every frame is a document -> [P, D]."""
        q, k, v = self.attention.qkv(self.norm1(x)).unflatten(-1, (3, self.attention.heads, -1)).unbind(1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        seen = attention.attend(q, k, v, frames, causal=False, kernel=self.attention.kernel)
        x = x + self.attention.proj(seen)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """2x2 neighbouring patches to one token of the decoder. DeepStack's mergers normalise after joining the four."""

    def __init__(self, config: VisionConfig, norm_joined: bool) -> None:
        super().__init__()
        self.joined = config.hidden_size * config.spatial_merge_size**2
        self.norm_joined = norm_joined
        self.norm = nn.LayerNorm(self.joined if norm_joined else config.hidden_size, eps=1e-6)
        self.fc1 = nn.Linear(self.joined, self.joined)
        self.fc2 = nn.Linear(self.joined, config.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """x [P, D] -> [M, O]."""
        x = self.norm(x.view(-1, self.joined)) if self.norm_joined else self.norm(x).view(-1, self.joined)
        return self.fc2(F.gelu(self.fc1(x)))


class VisionModel(nn.Module):
    """Patch embedding, learned positions interpolated to the image's size, blocks, mergers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = nn.Linear(config.patch_dim, config.hidden_size)
        self.position = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList([VisionBlock(config) for _ in range(config.depth)])
        self.merger = PatchMerger(config, norm_joined=False)
        self.taps = nn.ModuleList([PatchMerger(config, norm_joined=True) for _ in config.deepstack_visual_indexes])

    def forward(self, pixels: Tensor, grids: Tensor) -> VisionFeatures:
        """pixels [P, patch_dim], grids [N, 3] (frames, rows, columns of patches) -> features of all images in order."""
        with torch.inference_mode(False):  # cached tensors must serve later training too
            plan = _plan(self.config, tuple(map(tuple, grids.tolist())), pixels.device)
        positions = (self.position(plan.taps) * plan.weights[:, :, None]).sum(1)
        x = self.patch(pixels.to(self.patch.weight.dtype))
        x = x + F.embedding(plan.layout, positions).to(x.dtype)
        deepstack: list[Tensor] = []
        tapped = self.config.deepstack_visual_indexes
        for i, block in enumerate(self.blocks):
            x = block(x, plan.cos, plan.sin, plan.frames)
            if i in tapped:  # features in the order of the blocks, mergers in that of the list
                deepstack.append(self.taps[tapped.index(i)](x))
        return VisionFeatures(self.merger(x), deepstack)


@dataclass
class _Plan:
    """Index tensors that depend on the images' sizes only. U: patches of the distinct sizes."""

    taps: Tensor  # [U, 4] learned positions around each patch
    weights: Tensor  # [U, 4] their bilinear weights
    layout: Tensor  # [P] which of the U positions each patch takes
    cos: Tensor  # [P, d]
    sin: Tensor  # [P, d]
    frames: attention.Documents


@lru_cache(maxsize=64)
def _plan(config: VisionConfig, grids: tuple[tuple[int, int, int], ...], device: torch.device) -> _Plan:
    sizes = list(dict.fromkeys((h, w) for _, h, w in grids))
    parts = {size: _frame(config, *size) for size in sizes}
    offsets, total = {}, 0
    for size in sizes:
        offsets[size] = total
        total += size[0] * size[1]
    frames = [(h, w) for t, h, w in grids for _ in range(t)]
    spans = {size: torch.arange(offsets[size], offsets[size] + size[0] * size[1]) for size in sizes}
    layout = torch.cat([spans[size] for size in frames])
    coordinates = torch.cat([parts[size][0] for size in sizes])
    cos, sin = vision_angles(config, coordinates)
    cu_seqlens = F.pad(torch.tensor([h * w for h, w in frames]).cumsum(0), (1, 0))
    tensors = (
        torch.cat([parts[size][1] for size in sizes]),
        torch.cat([parts[size][2] for size in sizes]),
        layout,
        cos[layout],
        sin[layout],
    )
    return _Plan(*(x.to(device) for x in tensors), frames=attention.Documents.of(cu_seqlens).to(device))


@lru_cache(maxsize=1024)
def _frame(config: VisionConfig, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of one frame, in merge-block order: coordinates [hw, 2], neighbouring learned positions [hw, 4] and their
    bilinear weights [hw, 4]. Corners align: the learned grid is stretched over the frame's."""
    merge, side = config.spatial_merge_size, config.side
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    coordinates = torch.stack((rows, columns), -1)
    blocks = coordinates.view(height // merge, merge, width // merge, merge, 2).transpose(1, 2)
    coordinates = blocks.reshape(-1, 2)

    def axis(index: Tensor, length: int) -> tuple[Tensor, Tensor]:
        place = index * (side - 1) / max(length - 1, 1)
        low = place.long()
        share = place - low
        return torch.stack((low, (low + 1).clamp(max=side - 1)), -1), torch.stack((1 - share, share), -1)

    row_taps, row_weights = axis(coordinates[:, 0], height)
    column_taps, column_weights = axis(coordinates[:, 1], width)
    taps = (row_taps[:, :, None] * side + column_taps[:, None, :]).flatten(1)
    weights = (row_weights[:, :, None] * column_weights[:, None, :]).flatten(1)
    return coordinates, taps, weights
