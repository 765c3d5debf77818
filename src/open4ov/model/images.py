"""Pictures to patches, as Qwen's image processor does it: resize to multiples of 32 pixels, normalise, cut up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open4ov.errors import UserError

MAX_ASPECT = 200


@dataclass(frozen=True)
class ImageSettings:
    """`preprocessor_config.json`: pixel limits of the resized image, patch geometry, normalisation of 0..1 values."""

    min_pixels: int = 65_536
    max_pixels: int = 16_777_216
    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str) -> ImageSettings:
        size = raw.get("size") or {}
        low = raw.get("min_pixels") or size.get("shortest_edge")
        high = raw.get("max_pixels") or size.get("longest_edge")
        if not isinstance(low, int) or not isinstance(high, int) or not 0 < low <= high:
            raise UserError(f"{where}: size must give shortest_edge and longest_edge, 0 < shortest <= longest (pixels)")
        try:
            return cls(
                min_pixels=low,
                max_pixels=high,
                patch_size=int(raw["patch_size"]),
                temporal_patch_size=int(raw["temporal_patch_size"]),
                merge_size=int(raw["merge_size"]),
                mean=_three(raw["image_mean"]),
                std=_three(raw["image_std"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: missing or wrong {error}") from None

    @property
    def factor(self) -> int:
        """Sides are multiples of this many pixels."""
        return self.patch_size * self.merge_size

    def to_dict(self) -> dict[str, Any]:
        return {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "processor_class": "Qwen3VLProcessor",
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            "patch_size": self.patch_size,
            "temporal_patch_size": self.temporal_patch_size,
            "merge_size": self.merge_size,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The nearest (height, width) with both sides multiples of `factor`, the area within the limits and the aspect
    ratio kept as well as that allows (Qwen2-VL). Raises UserError for sides in a ratio above 200."""
    if min(height, width) < 1 or max(height, width) / min(height, width) > MAX_ASPECT:
        raise UserError(
            f"an image of {width} x {height} pixels: sides must be positive and their ratio at most {MAX_ASPECT}"
        )
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rows, columns


def patches(image: Image.Image, settings: ImageSettings) -> tuple[Tensor, tuple[int, int, int]]:
    """Float [rows * columns, 3 * frames * patch²] in merge-block order, and the grid (1, rows, columns) in patches.

    A still image fills every frame of the temporal patch.
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    s = settings
    height, width = smart_resize(image.height, image.width, s.factor, s.min_pixels, s.max_pixels)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    mean, std = (np.array(x, dtype=np.float32)[:, None, None] for x in (s.mean, s.std))
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32) * np.float32(1 / 255)
    pixels = (pixels - mean) / std
    rows, columns = height // s.patch_size, width // s.patch_size
    m, p = s.merge_size, s.patch_size
    blocks = pixels.reshape(3, rows // m, m, p, columns // m, m, p).transpose(1, 4, 2, 5, 0, 3, 6)
    frames = np.broadcast_to(blocks[:, :, :, :, :, None], (*blocks.shape[:5], s.temporal_patch_size, p, p))
    return torch.from_numpy(np.ascontiguousarray(frames).reshape(rows * columns, -1)), (1, rows, columns)


def _three(values: Any) -> tuple[float, float, float]:
    a, b, c = values
    return float(a), float(b), float(c)
