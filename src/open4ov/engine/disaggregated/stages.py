"""Encode, prefill and decode as stages with a policy each: static batches of pictures, prompts in chunks, and a batch
that changes with every token (paper §5.2).

What a stage hands on is the content of a cache: features of pictures, or keys and values of a prompt. Whoever takes it
over names it by keys worked out from the request itself, and then answers the request as ever. So the answer is the
same however the stages are laid out, and what is missing is simply computed by the one that misses it.

In one process the stages are objects with a thread each (`threads.py`); `client.py` and `server.py` put a process
between.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from open4ov.engine.sequence import Prompt
from open4ov.engine.stage_error import StageError
from open4ov.engine.vision_cache import Grid, VisionCache
from open4ov.model import Processor, VisionFeatures
from open4ov.model.images import image_grid, video_grid
from open4ov.model.processing import Visual, visuals


@dataclass(frozen=True)
class Features:
    """Of pictures and videos, in order. `batch`: how many the last of them was encoded with."""

    each: list[VisionFeatures]
    batch: int


@dataclass(frozen=True)
class Keys:
    """Keys and values [layers, tokens, heads, d] of a prompt's last tokens. `batch`: prompts under way beside it."""

    keys: Tensor
    values: Tensor
    batch: int


class Encoder(Protocol):
    def encode(self, seen: Sequence[Visual], fingerprint: str, salt: str = "") -> Features:
        """Blocks until they are there; `salt` as in `Request`. Raises StageError, also when its weights are not those
        of the fingerprint."""
        ...


class Prefiller(Protocol):
    def prefill(self, prompt: Prompt, features: list[VisionFeatures] | None, start: int, fingerprint: str) -> Keys:
        """Of the tokens from `start` on; `features` of all pictures, if the caller has them. Blocks, raises StageError
        as `Encoder.encode` does."""
        ...


@dataclass(frozen=True)
class EncodePolicy:
    """Static batching: `batch` pictures are encoded together, or fewer once the first has waited `wait` seconds."""

    batch: int = 8
    wait: float = 0.005


@dataclass(frozen=True)
class PrefillPolicy:
    """Chunked prefill: a step computes at most `chunk` tokens of at most `rows` prompts; a longer prompt takes several.
    `kv_tokens`: tokens whose keys and values are kept for equal beginnings."""

    chunk: int = 1024
    rows: int = 16
    kv_tokens: int = 32768
    block_size: int = 16


def other_weights() -> StageError:
    return StageError("weights", "the stage has other weights or options than whoever asks it")


def digest_of(prompt: Prompt) -> str:
    """What a prompt is to the model: its tokens, and the content and place of its pictures."""
    digest = hashlib.sha256(array("q", prompt.token_ids).tobytes())
    digest.update(repr((prompt.digests, prompt.document.grids.tolist(), prompt.places.tolist())).encode())
    return digest.hexdigest()


def grid_of(visual: Visual, processor: Processor) -> Grid:
    """Raises UserError for a picture or a video that the processor does not take."""
    if isinstance(visual, Image.Image):
        return image_grid(visual, processor.images)
    return video_grid(visual, processor.images, processor.videos)


def grids_of(prompt: Prompt) -> list[Grid]:
    """Of a prompt's pictures and videos, in order."""
    return [(frames, rows, columns) for frames, rows, columns in prompt.document.grids.tolist()]


def put_features(cache: VisionCache, prompt: Prompt, features: Sequence[VisionFeatures]) -> None:
    """Takes over the features of a prompt's pictures under names that come from the pictures themselves.

    Raises ValueError for another number, shape or type of them.
    """
    if len(features) != len(prompt.digests):
        raise ValueError(f"features of {len(prompt.digests)} pictures are needed, not of {len(features)}")
    for digest, grid, one in zip(prompt.digests, grids_of(prompt), features, strict=True):
        cache.put(digest, grid, one)


def visuals_of(prompt: Prompt) -> list[Visual]:
    return visuals(prompt.request.messages, prompt.request.images)
