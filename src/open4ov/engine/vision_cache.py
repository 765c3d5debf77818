"""Features of pictures that the vision tower has seen: a picture is encoded once, for as long as the weights stay.

A key is all that the features depend on: the picture's content and shape, the processor's options, the type that is
computed in, and the tower's weights. The weights are looked at themselves, as nobody can be relied on to say that they
have changed: a trainer that steps them, or a new state dict, frees all that was kept (`watch.py`).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from open4ov.engine.watch import Watch
from open4ov.model import Encoded, Processor, Qwen3VL, VisionFeatures
from open4ov.model.processing import Visual
from open4ov.sample import Message

Grid = tuple[int, int, int]
"""Frames, rows and columns of patches"""
DEFAULT_BYTES = 256 * 2**20


@dataclass
class CacheStatistics:
    """Pictures asked for that were there and that were not, pictures dropped for want of room, and bytes held."""

    hits: int = 0
    misses: int = 0
    evicted: int = 0
    bytes: int = 0


class VisionCache:
    """Features of one model's pictures, at most `limit` bytes of them; those not used for longest go first. Without
    `watch` the weights are not looked at: who changes them calls `clear`. `alone`: each picture passes the tower by
    itself, so that its features are the same to the last bit whatever else was new with it."""

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        limit: int = DEFAULT_BYTES,
        watch: bool = True,
        alone: bool = False,
    ) -> None:
        self.model, self.processor, self.limit, self.alone = model, processor, limit, alone
        self.statistics = CacheStatistics()
        self.version = 0
        """Another one whenever all was forgotten: weights are others"""
        self._held: OrderedDict[Hashable, VisionFeatures] = OrderedDict()
        self._lock = threading.Lock()
        self._weights = Watch(lambda: model.vision.parameters(), watch)

    def features(
        self, documents: Sequence[Encoded], seen: Sequence[Visual], digests: Sequence[str]
    ) -> list[VisionFeatures]:
        """The features of the documents' pictures and videos, in order, without gradient.

        seen: they themselves, digests: what identifies the content of each (`visuals` and `digests` give them). Those
        that are new are cut into patches and encoded together, each once; the documents need no pixels. What is given
        out is shared: it must not be written to.
        """
        return self.of([tuple(grid) for document in documents for grid in document.grids.tolist()], seen, digests)

    def of(self, grids: Sequence[Grid], seen: Sequence[Visual], digests: Sequence[str]) -> list[VisionFeatures]:
        """The same for pictures and videos without a conversation, whose `grids` the processor's settings give."""
        if self._weights.changed():
            self.clear()
        keys = [self._key(digest, grid) for digest, grid in zip(digests, grids, strict=True)]
        assert len(seen) == len(keys)
        new: dict[Hashable, int] = {}
        found: dict[Hashable, VisionFeatures] = {}
        for index, key in enumerate(keys):
            held = self._find(key)
            if held is None:
                new.setdefault(key, index)
            else:
                found[key] = held
        self.statistics.misses += len(new)
        self.statistics.hits += len(keys) - len(new)
        if new:
            places = list(new.values())
            together = [[place] for place in places] if self.alone else [places]
            parts = [part for own in together for part in self._encode([grids[i] for i in own], [seen[i] for i in own])]
            for key, part in zip(new, parts, strict=True):
                found[key] = part
                self._keep(key, part)
        return [found[key] for key in keys]

    def _encode(self, grids: Sequence[Grid], seen: Sequence[Visual]) -> list[VisionFeatures]:
        """One pass of the tower."""
        with torch.inference_mode(False), torch.no_grad():  # what generation encodes, training may use
            table = torch.tensor(grids)
            encoded = self.model.encode_images(self.processor.pixels(seen, self.model.device), table)
            # copies: a slice would keep its whole batch alive
            return [_copied(part) for part in encoded.split(table)] if len(grids) > 1 else [encoded]

    def find(self, digest: str, grid: Grid) -> VisionFeatures | None:
        """Those of a picture, if they are there. Any thread may ask; the weights are not looked at."""
        return self._find(self._key(digest, grid))

    def put(self, digest: str, grid: Grid, features: VisionFeatures) -> None:
        """Takes over features of a picture that were computed elsewhere, by the same weights. Any thread may call.

        Raises ValueError for features of another shape or type than this model's.
        """
        wanted = self.shape(grid)
        found = [len(features.deepstack) + 1, *features.merged.shape]
        if found != list(wanted) or any(x.shape != features.merged.shape for x in features.deepstack):
            raise ValueError(f"features must be {list(wanted)}, not {found}")
        if any(x.dtype != self.dtype for x in (features.merged, *features.deepstack)):
            raise ValueError(f"features must be {self.dtype}, not {features.merged.dtype}")
        self._keep(self._key(digest, grid), features)

    def shape(self, grid: Grid) -> tuple[int, int, int]:
        """Of a picture's features, one above the other: merged and taps, tokens, width."""
        vision = self.model.config.vision
        tokens = grid[0] * grid[1] * grid[2] // vision.spatial_merge_size**2
        return len(vision.deepstack_visual_indexes) + 1, tokens, vision.out_hidden_size

    @property
    def dtype(self) -> torch.dtype:
        """What features are computed in."""
        return _computed_in(self.model)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self.version += 1
            self._held.clear()
            self.statistics.bytes = 0

    def _key(self, digest: str, grid: Grid) -> Hashable:
        return digest, tuple(grid), (self.processor.images, self.processor.videos), self.dtype

    def _find(self, key: Hashable) -> VisionFeatures | None:
        with self._lock:
            if (held := self._held.get(key)) is not None:
                self._held.move_to_end(key)
            return held

    def _keep(self, key: Hashable, features: VisionFeatures) -> None:
        size = features.nbytes
        if size > self.limit:
            return
        with self._lock:
            if (before := self._held.pop(key, None)) is not None:
                self.statistics.bytes -= before.nbytes
            self._held[key] = features
            self.statistics.bytes += size
            while self.statistics.bytes > self.limit:
                _, dropped = self._held.popitem(last=False)
                self.statistics.bytes -= dropped.nbytes
                self.statistics.evicted += 1


def image_hash(image: Image.Image) -> str:
    """SHA-256 of a picture's size and of its pixels as the processor sees them (RGB)."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    digest = hashlib.sha256(f"{rgb.size}".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()


def salted(salt: str, digest: str) -> str:
    """A digest by which only those with that salt find something; "" is no salt."""
    return f"{salt}:{digest}" if salt else digest


def visual_hash(visual: Visual) -> str:
    """What identifies the content of a picture, or of a video's frames."""
    return image_hash(visual) if isinstance(visual, Image.Image) else "+".join(map(image_hash, visual))


def digests(messages: Sequence[Message], images: Sequence[Image.Image]) -> list[str]:
    """What identifies each picture and video of a conversation, in the order they come; a video is its frames."""
    known: dict[int, str] = {}

    def digest(index: int) -> str:
        if index not in known:
            known[index] = image_hash(images[index])
        return known[index]

    parts = [part for message in messages for part in message.content if part.type != "text"]
    return ["+".join(digest(index) for index in part.shows) for part in parts]


def _computed_in(model: Qwen3VL) -> torch.dtype:
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.vision.patch.weight.dtype


def _copied(features: VisionFeatures) -> VisionFeatures:
    return VisionFeatures(features.merged.clone(), [x.clone() for x in features.deepstack])
