"""Pictures to patches, as Qwen's image processor does it: resize to multiples of 32 pixels, normalise, cut up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from open4ov.errors import UserError

from .checks import limits, positive, three, whole

MAX_ASPECT = 200
_EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
"""Modes that Pillow makes RGB as they look; it clips deeper ones and misreads LAB."""


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
        """Raises UserError naming the file (`where`) and the key that is missing or wrong."""
        low, high = limits(raw, where)
        return cls(
            min_pixels=low,
            max_pixels=high,
            patch_size=whole(raw, "patch_size", where),
            temporal_patch_size=whole(raw, "temporal_patch_size", where),
            merge_size=whole(raw, "merge_size", where),
            mean=three(raw, "image_mean", where),
            std=three(raw, "image_std", where, above_zero=True),
        )

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


def image_grid(image: Image.Image, settings: ImageSettings) -> tuple[int, int, int]:
    """(1, rows, columns) of the patches that a picture is cut into."""
    s = settings
    height, width = smart_resize(image.height, image.width, s.factor, s.min_pixels, s.max_pixels)
    return 1, height // s.patch_size, width // s.patch_size


def fitted(image: Image.Image, settings: ImageSettings) -> Image.Image:
    """The picture in RGB and of the size that the model reads. Raises UserError as `patches` does."""
    image, s = _rgb(image), settings
    height, width = smart_resize(image.height, image.width, s.factor, s.min_pixels, s.max_pixels)
    same = (height, width) == (image.height, image.width)
    return image if same else image.resize((width, height), Image.Resampling.BICUBIC)


def patches(image: Image.Image, settings: ImageSettings) -> tuple[Tensor, tuple[int, int, int]]:
    """Float [rows * columns, 3 * frames * patch²] in merge-block order, and the grid (1, rows, columns) in patches.

    A still image fills every frame of the temporal patch. Raises UserError for a picture of a mode that Pillow cannot
    make RGB as it looks: more than 8 bits a channel, LAB.
    """
    s = settings
    image = fitted(image, s)
    mean, std = (np.array(x, dtype=np.float32)[:, None, None] for x in (s.mean, s.std))
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32) * np.float32(1 / 255)
    pixels = (pixels - mean) / std
    rows, columns = image.height // s.patch_size, image.width // s.patch_size
    m, p = s.merge_size, s.patch_size
    blocks = pixels.reshape(3, rows // m, m, p, columns // m, m, p).transpose(1, 4, 2, 5, 0, 3, 6)
    frames = np.broadcast_to(blocks[:, :, :, :, :, None], (*blocks.shape[:5], s.temporal_patch_size, p, p))
    return torch.from_numpy(np.ascontiguousarray(frames).reshape(rows * columns, -1)), (1, rows, columns)


def batch_patches(
    images: Sequence[Image.Image], settings: ImageSettings, device: torch.device | str = "cpu"
) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """`patches` of many images, end to end in their order, and their grids; worked out on `device`.

    The host only hands over the bytes of the pictures: resizing, normalising and cutting up are tensor operations, one
    batch for each size. Resized pixels differ from `patches` by rounding (at most 2 of 255 levels). Raises UserError as
    `patches` does.
    """
    s = settings
    rgb = [_rgb(image) for image in images]
    sizes = [smart_resize(image.height, image.width, s.factor, s.min_pixels, s.max_pixels) for image in rgb]
    together: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = {}
    for index, (image, size) in enumerate(zip(rgb, sizes, strict=True)):
        together.setdefault((image.size, size), []).append(index)
    found: dict[int, Tensor] = {}
    for (_, size), indices in together.items():
        bytes_ = torch.stack([torch.from_numpy(np.array(rgb[index])) for index in indices])
        for index, cut in zip(indices, _cut(bytes_.to(device), size, s), strict=True):
            found[index] = cut
    grids = [(1, height // s.patch_size, width // s.patch_size) for height, width in sizes]
    empty = torch.empty(0, 3 * s.temporal_patch_size * s.patch_size**2, device=device)
    return torch.cat([found[index] for index in range(len(rgb))]) if rgb else empty, grids


@dataclass(frozen=True)
class VideoSettings:
    """`video_preprocessor_config.json`. The pixel limits are of all frames together; `fps` frames a second are looked
    at, at least `min_frames` and at most `max_frames`."""

    min_pixels: int = 131_072
    max_pixels: int = 786_432
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str) -> VideoSettings:
        """Raises UserError naming the file (`where`) and the key that is wrong; what is missing or null is as above."""
        low, high = limits({"size": raw.get("size")}, where, (cls.min_pixels, cls.max_pixels))
        most = whole(raw, "max_frames", where, cls.max_frames, least=2)
        fewest = whole(raw, "min_frames", where, min(cls.min_frames, most), least=2)
        if fewest > most:
            raise UserError(f"{where}: min_frames ({fewest}) must not exceed max_frames ({most})")
        return cls(
            min_pixels=low,
            max_pixels=high,
            fps=positive(raw, "fps", where, cls.fps),
            min_frames=fewest,
            max_frames=most,
        )


def sample_frames(frames: int, fps: float, settings: VideoSettings) -> list[int]:
    """Which of a video's `frames`, recorded at `fps` a second, are looked at: evenly from the first to the last."""
    wanted = int(frames / fps * settings.fps)
    wanted = min(max(wanted, settings.min_frames), settings.max_frames, frames)
    return [int(index) for index in np.linspace(0, frames - 1, wanted).round()]


def video_resize(frames: int, height: int, width: int, images: ImageSettings, videos: VideoSettings) -> tuple[int, int]:
    """(height, width) of a video's frames: as `smart_resize`, with limits for the pixels of all frames (Qwen3-VL)."""
    factor, temporal = images.factor, images.temporal_patch_size
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise UserError(f"a video of {width} x {height} pixels: the ratio of its sides must be at most {MAX_ASPECT}")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    volume = round(frames / temporal) * temporal * rows * columns
    if volume > videos.max_pixels:
        shrink = math.sqrt(frames * height * width / videos.max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif volume < videos.min_pixels:
        grow = math.sqrt(videos.min_pixels / (frames * height * width))
        rows, columns = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rows, columns


def video_grid(frames: Sequence[Image.Image], images: ImageSettings, videos: VideoSettings) -> tuple[int, int, int]:
    """(pairs, rows, columns) of the patches that a video is cut into; an odd last frame is repeated.

    Raises UserError for fewer than two frames and for frames of different sizes.
    """
    s = images
    if len(frames) < s.temporal_patch_size:
        raise UserError(f"a video needs at least {s.temporal_patch_size} frames, this one has {len(frames)}")
    if len({frame.size for frame in frames}) > 1:
        raise UserError(f"a video's frames must be of one size, not {sorted({frame.size for frame in frames})}")
    height, width = video_resize(len(frames), frames[0].height, frames[0].width, images, videos)
    return -(-len(frames) // s.temporal_patch_size), height // s.patch_size, width // s.patch_size


def video_patches(
    frames: Sequence[Image.Image], images: ImageSettings, videos: VideoSettings
) -> tuple[Tensor, tuple[int, int, int]]:
    """Float [patches, 3 * frames * patch²] of a video, pair of frames after pair, and its grid (pairs, rows, columns).

    Raises UserError as `video_grid` and `patches` do.
    """
    s = images
    grid = video_grid(frames, images, videos)
    rows, columns, m, p = grid[1], grid[2], s.merge_size, s.patch_size
    height, width = rows * p, columns * p
    rgb = [_rgb(frame) for frame in frames]
    rgb = [f if f.size == (width, height) else f.resize((width, height), Image.Resampling.BICUBIC) for f in rgb]
    rgb += [rgb[-1]] * (-len(rgb) % s.temporal_patch_size)
    values = torch.stack([torch.from_numpy(np.array(frame)) for frame in rgb]).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(x)[:, None, None] for x in (s.mean, s.std))
    values = (values * (1 / 255) - mean) / std
    blocks = values.view(-1, s.temporal_patch_size, 3, rows // m, m, p, columns // m, m, p)
    cut = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * s.temporal_patch_size * p * p)
    return cut, grid


def _cut(pixels: Tensor, size: tuple[int, int], s: ImageSettings) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, patches, 3 * frames * patch²] of the pictures resized to `size`."""
    values = pixels.permute(0, 3, 1, 2).float()
    for between in ((values.shape[2], size[1]), size):  # width, then height, each to whole levels, as Pillow does
        if tuple(values.shape[2:]) != between:
            values = F.interpolate(values, size=between, mode="bicubic", antialias=True, align_corners=False)
            values = values.round_().clamp_(0, 255)
    mean, std = (torch.tensor(x, device=pixels.device)[:, None, None] for x in (s.mean, s.std))
    values = (values * (1 / 255) - mean) / std
    rows, columns, m, p = size[0] // s.patch_size, size[1] // s.patch_size, s.merge_size, s.patch_size
    blocks = values.view(-1, 3, rows // m, m, p, columns // m, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    frames = blocks[:, :, :, :, :, :, None].expand(*blocks.shape[:6], s.temporal_patch_size, p, p)
    return frames.reshape(len(pixels), rows * columns, -1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode not in _EIGHT_BITS:
        raise UserError(
            f"a picture of mode {image.mode!r} would turn white, black or false in colour: open its file with "
            "open4ov.images.open_image, which converts 16-bit grey and LAB, or give 8 bits a channel"
        )
    return image.convert("RGB")
