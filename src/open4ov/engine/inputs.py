"""What a step hands the model: the tokens of all chunks end to end, and the pictures' features among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from open4ov.engine.sequence import Chunk
from open4ov.engine.sequence import Sequence as One
from open4ov.engine.vision_cache import VisionCache
from open4ov.model import Pack, Qwen3VL, VisionFeatures
from open4ov.model.processing import visuals


class Inputs:
    """Packs chunks for `model`; a picture is encoded when the first of its tokens comes, unless the cache has it."""

    def __init__(self, model: Qwen3VL, vision_cache: VisionCache) -> None:
        self.model, self.vision_cache = model, vision_cache

    def pack(self, chunks: Sequence[Chunk], decoding: int) -> tuple[Pack, VisionFeatures | None]:
        """The chunks' tokens end to end (those that decode come first), and the features of pictures' tokens among
        them."""
        self._encode_pictures(chunks[decoding:])
        parts: list[VisionFeatures] = []
        places: list[Tensor] = []
        borders, ids, positions = [0], list[int](), list[Tensor]()
        decoded = [chunk.sequence for chunk in chunks[:decoding]]
        if decoded:
            ids = [one.tokens[-1] for one in decoded]
            positions.append(torch.tensor([one.position(one.computed) for one in decoded]).expand(3, -1))
            borders = list(range(len(decoded) + 1))
        for one, start, count in ((c.sequence, c.sequence.computed, c.count) for c in chunks[len(decoded) :]):
            ids += one.tokens[start : start + count]
            positions.append(one.positions(start, count))
            first, last = _between(one.prompt.places, start, start + count)
            if first < last:
                assert one.features is not None
                parts.append(_cut(one.features, first, last))
                places.append(one.prompt.places[first:last] - start + borders[-1])
            if last == len(one.prompt.places):  # beyond the cache's limit they are kept for no longer than needed
                one.features = None
            borders.append(borders[-1] + count)
        packed = Pack(
            input_ids=torch.tensor(ids),
            positions=torch.cat(positions, dim=1),
            cu_seqlens=torch.tensor(borders),
            targets=torch.zeros(len(ids), dtype=torch.bool),
            pixels=torch.empty(0, 0),
            grids=torch.empty(0, 3, dtype=torch.long),
            places=torch.cat(places) if places else torch.empty(0, dtype=torch.long),
        )
        return packed.to(self.model.device), VisionFeatures.cat(parts) if parts else None

    def _encode_pictures(self, chunks: Sequence[Chunk]) -> None:
        """Gets the features of the pictures that the chunks begin, of all prompts together."""
        needed: list[One] = []
        for one, start, count in ((chunk.sequence, chunk.sequence.computed, chunk.count) for chunk in chunks):
            first, last = _between(one.prompt.places, start, start + count)
            if first < last and one.features is None:
                needed.append(one)
        if not needed:
            return
        prompts = [one.prompt for one in needed]
        seen = [one for prompt in prompts for one in visuals(prompt.request.messages, prompt.request.images)]
        names = [name for prompt in prompts for name in prompt.digests]
        found = self.vision_cache.features([prompt.document for prompt in prompts], seen, names)
        for one in needed:
            count = len(one.prompt.digests)
            one.features = VisionFeatures.cat(found[:count])
            found = found[count:]


def _between(places: Tensor, start: int, end: int) -> tuple[int, int]:
    """Which of the sorted `places` lie in start .. end - 1: the first, and the one after the last."""
    first, last = torch.searchsorted(places, torch.tensor([start, end])).tolist()
    return first, last


def _cut(features: VisionFeatures, first: int, last: int) -> VisionFeatures:
    return replace(features, merged=features.merged[first:last], deepstack=[x[first:last] for x in features.deepstack])
