"""Pictures, conversations and features as messages of `transport.py`, and what is looked at before they are believed.

Pictures travel as RGB pixels: no decoder runs in a stage. Whatever names content (digests, keys of blocks) does not
travel to be used; at most it is compared with what the receiver has worked out itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from open4ov.engine.disaggregated.transport import Spec
from open4ov.errors import UserError
from open4ov.model import VisionFeatures
from open4ov.model.processing import Visual
from open4ov.sample import Message

MAX_PIXELS = 2**26
"""Of a picture that a stage takes"""


def pixels_of(image: Image.Image) -> Tensor:
    """uint8 [height, width, 3]."""
    return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB")))


def image_from(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.numpy(), "RGB")


def check_pictures(specs: Sequence[Spec]) -> None:
    """Raises ValueError for what is not a picture of a reasonable size."""
    for spec in specs:
        sides = spec.shape[:2]
        if spec.dtype != torch.uint8 or len(spec.shape) != 3 or spec.shape[2] != 3 or 0 in sides:
            raise ValueError("a tensor that is not a picture")
        if sides[0] * sides[1] > MAX_PIXELS:
            raise ValueError("a picture above the limit")


def say_visuals(seen: Sequence[Visual]) -> tuple[list[int], list[Tensor]]:
    """For each how many frames it has (0: a picture), and the pixels of all."""
    layout, tensors = list[int](), list[Tensor]()
    for visual in seen:
        frames = [visual] if isinstance(visual, Image.Image) else list(visual)
        layout.append(0 if isinstance(visual, Image.Image) else len(frames))
        tensors += map(pixels_of, frames)
    return layout, tensors


def hear_visuals(layout: Any, tensors: Sequence[Tensor]) -> list[Visual]:
    """The reverse of `say_visuals`. Raises ValueError when the layout is of other tensors."""
    if not isinstance(layout, list) or not all(type(count) is int and count >= 0 for count in layout):
        raise ValueError("a layout of pictures of another form")
    if sum(max(count, 1) for count in layout) != len(tensors):
        raise ValueError("pictures of another number than the layout's")
    images, seen = iter(map(image_from, tensors)), list[Visual]()
    for count in layout:
        seen.append([next(images) for _ in range(count)] if count else next(images))
    return seen


def say_messages(messages: Sequence[Message]) -> list[Any]:
    wanted = {"role": True, "content": {"__all__": {"type", "text", "index", "times"}}}
    return [message.model_dump(mode="json", include=wanted) for message in messages]


def hear_messages(content: Any) -> list[Message]:
    """Raises ValueError for what is not a conversation."""
    if not isinstance(content, list) or not content:
        raise ValueError("no conversation")
    try:
        return [Message.model_validate(one) for one in content]
    except (ValidationError, UserError):
        raise ValueError("messages of another form") from None


def say_features(each: Sequence[VisionFeatures]) -> list[Tensor]:
    """For each picture merged features and taps, one above the other [1 + taps, M, O]."""
    return [torch.stack([one.merged, *one.deepstack]) for one in each]


def hear_features(tensors: Sequence[Tensor]) -> list[VisionFeatures]:
    return [VisionFeatures(layers[0], list(layers[1:])) for layers in tensors]


def check_features(specs: Sequence[Spec], dtype: torch.dtype, layers: int, width: int) -> None:
    """Raises ValueError for what no picture's features can be; `VisionCache.put` knows how many tokens it must be."""
    for spec in specs:
        if spec.dtype != dtype or len(spec.shape) != 3 or (spec.shape[0], spec.shape[2]) != (layers, width):
            raise ValueError("a tensor that is not the features of a picture")
