"""Evidence by embedding: which library pictures lie nearest to a picture, by shape and colour features.

The picture is cropped by where its strong edges lie (first and second moments), then described by histograms of edge
directions (9 bins, signed) and mean colours over a grid, at length 1. Its neighbours come from a library of reference
renderings. Nothing is shared with the template matcher of pixels.py but the picture itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
SIDE, CELLS, BINS = 48, 8, 9
COLOUR_WEIGHT = 0.35


@dataclass(frozen=True)
class Neighbours:
    """The nearest labels with their cosine, best first, each label once."""

    found: tuple[tuple[str, float], ...]

    @property
    def lead(self) -> float:
        """By how much the first label is nearer than the second."""
        return self.found[0][1] - self.found[1][1]


class ImageIndex:
    """References [R, D] with labels; `nearest` gives the k best labels of a picture."""

    def __init__(self, references: Sequence[tuple[str, Image.Image]]) -> None:
        rows = [(label, embed_image(image)) for label, image in references]
        self._labels = [label for label, row in rows if row is not None]
        self._rows = np.stack([row for _, row in rows if row is not None])

    def nearest(self, image: Image.Image, k: int = 3) -> Neighbours | None:
        """None for a picture without edges."""
        row = embed_image(image)
        if row is None:
            return None
        scores = self._rows @ row
        best: dict[str, float] = {}
        for i in np.argsort(-scores, kind="stable"):
            best.setdefault(self._labels[int(i)], float(scores[i]))
            if len(best) == k:
                break
        return Neighbours(tuple(best.items()))


def embed_image(image: Image.Image) -> Floats | None:
    """[D] of length 1; None for a picture without edges."""
    image = image.convert("RGB")
    coarse = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    force = _edges(np.asarray(coarse, dtype=np.float32))[0]
    strong = np.where(force > 0.4 * float(force.max()), force, 0)
    total = float(strong.sum())
    if total <= 0:
        return None
    top, bottom = (y * image.height / SIDE for y in _span(strong.sum(axis=1) / total))
    left, right = (x * image.width / SIDE for x in _span(strong.sum(axis=0) / total))
    crop = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    pixels = np.asarray(crop, dtype=np.float32)
    force, across, down = _edges(pixels)
    bins = ((np.arctan2(down, across) / (2 * np.pi) % 1) * BINS).astype(int) % BINS
    size = SIDE // CELLS
    rows, columns = np.indices((SIDE, SIDE)) // size
    shape = np.bincount(((rows * CELLS + columns) * BINS + bins).ravel(), force.ravel(), CELLS * CELLS * BINS)
    cells = shape.reshape(-1, BINS)
    shape = np.sqrt(cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 0.1 * np.linalg.norm(cells, axis=1).max()))
    colour = pixels.reshape(4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(1, 3)).ravel()
    colour = colour - colour.mean()
    parts = [
        shape.ravel() / max(float(np.linalg.norm(shape)), 1e-6),
        COLOUR_WEIGHT * colour / max(float(np.linalg.norm(colour)), 1e-6),
    ]
    row = np.concatenate(parts).astype(np.float32)
    return row / np.float32(np.linalg.norm(row))


def _edges(pixels: Floats) -> tuple[Floats, Floats, Floats]:
    """Of pixels [H, W, 3]: gradient length of the strongest channel, and the gradient of their mean across and down."""
    down, across = np.gradient(pixels, axis=(0, 1))
    lengths = np.hypot(down, across)
    force = np.maximum(np.maximum(lengths[:, :, 0], lengths[:, :, 1]), lengths[:, :, 2])
    third = np.full(3, 1 / 3, dtype=np.float32)
    return force, across @ third, down @ third


def _span(weights: Floats) -> tuple[float, float]:
    """Where the weight lies along an axis: from the 2 % to the 98 % quantile, and a little more."""
    total = np.cumsum(weights)
    first, last = (float(np.searchsorted(total, share)) for share in (0.02, 0.98))
    pad = 0.06 * max(last - first, 4)
    return max(0.0, first - pad), min(float(len(weights)), last + 1 + pad)
