"""What the trained embedder sees of a picture, before anything of it is trained: fixed features.

A picture is cut to what stands out from its border, set in a square and described three ways: the nano base's vision
tower at two sizes (means over the visual tokens of what the decoder is given, and the maxima of their sum), edge
directions and colours over a grid (retrieval.py), and shares of 64 colours. Nothing is shared with the judges of the
catalog but the grid of edges.

Shapes: N pictures, F features (`WIDTH`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from open4ov.assets import base_dir
from open4ov.mllm.retrieval import BINS, CELLS, embed_image
from open4ov.model import Processor, Qwen3VL
from open4ov.model.images import patches

Floats = NDArray[np.float32]
SIDE = 64
"""Pixels of the square's side, for the tower: four visual tokens"""
LARGEST = 384
"""Pixels of a picture's longer side beyond which it is made smaller first"""
STANDS_OUT = 24
"""Levels (of 255) by which a pixel must differ from the border's colour in some channel"""
SHADES = 4
"""Levels of each channel among which colours are shared out"""
TOWER = 256
GRID = CELLS * CELLS * BINS + 4 * 4 * 3
WIDTH = 4 * TOWER + GRID + SHADES**3
BATCH = 64


def features(images: Sequence[Image.Image]) -> Floats:
    """[N, F]: the parts one after the other, the tower's first; each of the other two at length 1 at most."""
    rows = np.zeros((len(images), WIDTH), dtype=np.float32)
    for start in range(0, len(images), BATCH):
        squares = [square(image) for image in images[start : start + BATCH]]
        part = rows[start : start + BATCH]
        part[:, : -GRID - SHADES**3] = _tower(squares)
        for row, image in zip(part, squares, strict=True):
            edges = embed_image(image)
            if edges is not None:
                row[-GRID - SHADES**3 : -(SHADES**3)] = edges
            row[-(SHADES**3) :] = _colours(image)
    return rows


def square(image: Image.Image) -> Image.Image:
    """What stands out from the picture's border, in the middle of a square of the border's colour.

    A transparent ground counts as white; a picture without a border, such as a photograph, stays whole.
    """
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if max(image.size) > LARGEST:
        scale = LARGEST / max(image.size)
        size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
        image = image.resize(size, Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0)
    there = np.abs(pixels - ground).max(axis=2) > STANDS_OUT
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    if len(rows) and len(columns):
        image = image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    side = round(1.12 * max(image.size))
    board = Image.new("RGB", (side, side), tuple(int(level) for level in ground))
    board.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return board


def _tower(squares: Sequence[Image.Image]) -> Floats:
    """[N, 4 · TOWER]: means of the merged features and of both DeepStack taps, maxima of their sum."""
    model, processor = _base()
    resized = [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0) for image in squares]
    cut = [patches(image, processor.images) for image in resized]
    with torch.no_grad():
        seen = model.encode_images(torch.cat([pixels for pixels, _ in cut]), torch.tensor([grid for _, grid in cut]))
    parts = [part.float().reshape(len(squares), -1, TOWER) for part in (seen.merged, *seen.deepstack)]
    pooled = [part.mean(dim=1) for part in parts]
    return torch.cat([*pooled, sum(parts[1:], parts[0]).amax(dim=1)], dim=1).numpy()


@cache
def _base() -> tuple[Qwen3VL, Processor]:
    folder = base_dir("nano")
    return Qwen3VL.from_pretrained(folder).requires_grad_(False), Processor.from_pretrained(folder)


def _colours(image: Image.Image) -> Floats:
    levels = np.asarray(image.resize((32, 32), Image.Resampling.BOX), dtype=np.int64) * SHADES // 256
    codes = (levels[:, :, 0] * SHADES + levels[:, :, 1]) * SHADES + levels[:, :, 2]
    shares = np.bincount(codes.ravel(), minlength=SHADES**3).astype(np.float32)
    return np.sqrt(shares / shares.sum())
