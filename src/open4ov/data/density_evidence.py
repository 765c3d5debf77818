"""A second opinion on information density, from pixels and annotation, without a model.

What can be counted stands in for each dimension of the IDS: regions of like colour and the entropy of colours for
subjects, the number and spread of things before the ground for space, rows of character-like specks for text. What an
image needs to be known for cannot be counted in pixels: `knowledge` is the number of words of the annotation, and is
missing without one. The figures rank images; they are not on the rubric's scale, so agreement is by rank (Spearman).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from open4ov.data.agreement import spearman
from open4ov.data.density import DIMENSIONS

Ints = NDArray[np.int64]
SIDE = 64  # of the picture whose regions are counted, pixels
TEXT_SIDE = 224  # longest side of the picture in which text is looked for
LEVELS = 4  # of each colour channel
SPECK = 0.002  # share of the picture below which a region is noise


def measure(image: Image.Image, annotation: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Figures in [0, 1] by dimension, more for richer images; `knowledge` only with an annotation."""
    image = image.convert("RGB")
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.int64)
    codes = (pixels * LEVELS // 256) @ np.array([LEVELS * LEVELS, LEVELS, 1])
    regions = components(codes)
    sizes = np.bincount(regions.ravel())
    large = np.flatnonzero(sizes >= max(2, SPECK * regions.size))
    shares = np.bincount(codes.ravel()) / codes.size
    bits = -sum(float(p) * math.log2(p) for p in shares if p > 0)
    found = {
        "subjects": 0.5 * _saturating(len(large) - 1, 10) + 0.5 * min(1.0, bits / 5),
        "space": _space(codes, pixels),
        "ocr": _saturating(text_specks(image), 20),
    }
    if annotation:
        found["knowledge"] = _saturating(len(set(_words(annotation))), 30)
    return found


def _saturating(count: float, scale: float) -> float:
    return 1 - math.exp(-max(0.0, count) / scale)


def _space(codes: Ints, pixels: Ints) -> float:
    """How many things stand before the ground, and over how much of the picture they are spread."""
    values, counts = np.unique(codes, return_counts=True)
    ground = pixels[codes == values[counts.argmax()]].mean(axis=0)
    before = np.abs(pixels - ground).max(axis=2) > 48
    labels = components(before.astype(np.int64))
    sizes = np.bincount(labels.ravel())
    things = [n for n in np.flatnonzero(sizes >= max(4, SPECK * labels.size)) if before[labels == n].any()]
    if not things:
        return 0.0
    centres = np.array([np.argwhere(labels == n).mean(axis=0) for n in things]) / SIDE
    spread = float(np.clip(centres.std(axis=0).sum() / 0.6, 0, 1))
    return 0.7 * _saturating(len(things) - 1, 5) + 0.3 * spread


def text_specks(image: Image.Image) -> int:
    """How many specks look like characters: of like height, close together in a row of at least three."""
    scale = min(1.0, TEXT_SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), dtype=np.float32)
    return max(_specks_in_rows(mask) for mask in _marks(grey))


def _marks(grey: NDArray[np.float32]) -> list[NDArray[np.bool_]]:
    """Pixels much darker, and much brighter, than the mean of the 17 × 17 pixels around them."""
    reach = 8
    wide = np.pad(grey, reach + 1, mode="edge").cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    span = 2 * reach + 1
    total = wide[span:, span:] - wide[:-span, span:] - wide[span:, :-span] + wide[:-span, :-span]
    mean = total[: grey.shape[0], : grey.shape[1]] / span**2
    return [grey < mean - 25, grey > mean + 25]


def _specks_in_rows(mask: NDArray[np.bool_]) -> int:
    labels = components(mask.astype(np.int64))
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0
    names, index = np.unique(labels[mask], return_inverse=True)
    top, left = np.full(len(names), 10**6), np.full(len(names), 10**6)
    bottom, right = np.zeros(len(names), dtype=np.int64), np.zeros(len(names), dtype=np.int64)
    for least, values in ((top, rows), (left, columns)):
        np.minimum.at(least, index, values)
    for most, values in ((bottom, rows), (right, columns)):
        np.maximum.at(most, index, values)
    high, wide = bottom - top + 1, right - left + 1
    fill = np.bincount(index) / (high * wide)
    like = (high >= 4) & (high <= 28) & (wide <= 2.5 * high) & (fill > 0.15)
    boxes = np.stack([(top + bottom) / 2, left, right, high], axis=1)[like].astype(np.float64)
    if len(boxes) < 3:
        return 0
    # Neighbours: centres within a third of the height, heights alike, no wider apart than a character.
    middle, low, far, tall = boxes.T
    least = np.minimum(tall[:, None], tall[None])
    near = np.abs(middle[:, None] - middle[None]) < least / 2
    near &= np.maximum(tall[:, None], tall[None]) < 1.8 * least
    gap = np.maximum(low[:, None], low[None]) - np.minimum(far[:, None], far[None])
    near &= (gap < 1.2 * least) & (gap > -0.5 * least)
    first, second = np.nonzero(near)
    groups = np.bincount(_joined(len(boxes), first, second))
    return int(groups[groups >= 3].sum())


def components(codes: Ints) -> Ints:
    """[H, W] → the number of the connected region of equal codes (over edges) that each pixel is in, from 0."""
    place = np.arange(codes.size).reshape(codes.shape)
    across, down = codes[:, 1:] == codes[:, :-1], codes[1:] == codes[:-1]
    first = np.concatenate([place[:, 1:][across], place[1:][down]])
    second = np.concatenate([place[:, :-1][across], place[:-1][down]])
    return _joined(codes.size, first, second).reshape(codes.shape)


def _joined(count: int, first: Ints, second: Ints) -> Ints:
    """[count] → the number of the part that each node of a graph is in. Roots are joined until no edge crosses."""
    root = np.arange(count)
    while True:
        a, b = root[first], root[second]
        apart = a != b
        if not apart.any():
            return np.unique(root, return_inverse=True)[1]
        np.minimum.at(root, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while not np.array_equal(root, after := root[root]):
            root = after


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.casefold().split()
    if isinstance(value, Mapping):
        return [word for part in cast("Mapping[str, object]", value).values() for word in _words(part)]
    if isinstance(value, list):
        return [word for part in cast("list[object]", value) for word in _words(part)]
    return []


def agreement(scored: Sequence[Mapping[str, float]], measured: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Spearman's rho of scores and figures by dimension, and of their means; `images` says over how many each is.

    None where one side is constant, as over pictures of one kind, or where there are under two.
    """
    found: dict[str, Any] = {}
    for name in DIMENSIONS:
        both = [(a[name], b[name]) for a, b in zip(scored, measured, strict=True) if name in b]
        found[name] = {"rho": spearman([a for a, _ in both], [b for _, b in both]), "images": len(both)}
    means = [
        (sum(a[name] for name in b) / len(b), sum(b.values()) / len(b)) for a, b in zip(scored, measured, strict=True)
    ]
    found["mean"] = {"rho": spearman([a for a, _ in means], [b for _, b in means]), "images": len(means)}
    return found
