"""Perceptual hashes of images: 64 bits that stay nearly the same when a picture is re-encoded, resized or tinted.

A picture becomes a thumbnail of 64 x 64 pixels; the 8 x 8 lowest frequencies of its grey levels (a type-II discrete
cosine transform) are compared with their median, one bit each: the well-known pHash. The bits of any window of the
thumbnail come from the same two matrix products as those of the whole, so the hashes of 256 overlapping windows, which
find a picture that was cropped, cost one product more.

Dim letters: N pictures, S side of a thumbnail (64), K frequencies a direction (8), V windows a direction (16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64
"""Pixels of a thumbnail's side."""

FREQUENCIES = 8
"""Lowest frequencies of each direction that make the hash: 8 x 8 = 64 bits."""

FLAT = 1.0
"""Coefficients below this (in grey levels times 64) are noise of the rounding and count as 0."""

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601, as Pillow converts to "L"

_QUARTERS = np.kron(np.eye(4), np.ones(SIDE // 4)).astype(np.float32)  # [4, S]: sums over quarters of a side

_LENGTHS = {1.0: 1, 0.87: 4, 0.74: 5, 0.62: 6}  # length of a window as a share of the side -> how many starts
WINDOWS = np.array(
    [(start * (1 - length), length) for length, count in _LENGTHS.items() for start in np.linspace(0, 1, count)]
)
"""[V, 2]: start and length of the windows along one direction, as shares of the side; the first is the whole."""


@dataclass(frozen=True)
class Print:
    """What is kept of a picture for comparing: `hashes` [N] of the whole, `mirrored` [N], `colours` [N, 4, 4, 3]."""

    hashes: NDArray[np.uint64]
    mirrored: NDArray[np.uint64]
    colours: NDArray[np.uint8]

    def rows(self, places: NDArray[np.int64]) -> Print:
        """Those at `places`."""
        return Print(self.hashes[places], self.mirrored[places], self.colours[places])


def joined(parts: Sequence[Print]) -> Print:
    """The prints of several batches as one; of none, none."""
    if not parts:
        none = np.zeros(0, np.uint64)
        return Print(none, none, np.zeros((0, 4, 4, 3), np.uint8))
    return Print(
        np.concatenate([part.hashes for part in parts]),
        np.concatenate([part.mirrored for part in parts]),
        np.concatenate([part.colours for part in parts]),
    )


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """The RGB picture as [S, S, 3], its sides squeezed to one length: means over blocks of pixels.

    Each block counts a grid of 3 x 3 to 8 x 8 pixels: what it shows hardly depends on more, and the time hardly grows
    with the picture.
    """
    if min(image.size) <= SIDE:
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    across, down = _samples(image.width), _samples(image.height)
    grid = image.resize((across * SIDE, down * SIDE), Image.Resampling.NEAREST)
    return np.asarray(grid.reduce((across, down)))


def _samples(pixels: int) -> int:
    """How many pixels of each block of a thumbnail count along a side of so many pixels."""
    return min(max(3, 2 * pixels // (3 * SIDE)), 8)


def grey(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, S, S, 3] -> grey levels [N, S, S]."""
    return thumbnails.astype(np.float32) @ _GREY


def prints(thumbnails: NDArray[np.uint8]) -> Print:
    """The hashes and the colours of thumbnails [N, S, S, 3]."""
    levels = thumbnails.astype(np.float32)  # once for both
    found = _frequencies(levels @ _GREY, 1)[:, 0, :, 0, :]  # [N, K, K]
    own, mirrored = _bits(np.stack([found, _mirrored(found)]).reshape(-1, FREQUENCIES, FREQUENCIES)).reshape(2, -1)
    return Print(own, mirrored, _colours(levels))


def _colours(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[N, S, S, 3] -> [N, 4, 4, 3]: means over quarters of the sides, rounded down (the sums are exact)."""
    rows = np.matmul(_QUARTERS, levels.reshape(-1, SIDE, SIDE * 3)).reshape(-1, 4, 4, SIDE // 4, 3)
    return (rows.sum(axis=3) / (SIDE // 4) ** 2).astype(np.uint8)


def phash(image: Image.Image) -> int:
    """The 64-bit hash of one RGB picture."""
    return int(hashes(thumbnail(image)[None])[0])


def hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """[N, S, S, 3] -> [N]: the hashes alone."""
    return _bits(_frequencies(grey(thumbnails), 1)[:, 0, :, 0, :])


def window_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """[N, S, S, 3] -> [N, V * V]: the hash of every window, rows of windows first; the first is the whole picture."""
    count = len(WINDOWS)
    found = _frequencies(grey(thumbnails), count).transpose(0, 1, 3, 2, 4)  # [N, V, V, K, K]
    return _bits(found.reshape(-1, FREQUENCIES, FREQUENCIES)).reshape(len(thumbnails), count * count)


def windows() -> NDArray[np.float64]:
    """[V * V, 4]: top, height, left, width of the windows in the order of `window_hashes`, as shares of the sides."""
    return np.array([[*rows, *columns] for rows, columns in product(WINDOWS, WINDOWS)])


def resampling(start: float, length: float, pixels: int) -> NDArray[np.float32]:
    """[pixels, S]: averages (or, going up, interpolates) a thumbnail's rows from `start` on, `length` of the side."""
    edges = (start + length * np.arange(pixels + 1) / pixels) * SIDE
    width = max(1.0, edges[1] - edges[0])
    centres = (edges[1:] + edges[:-1]) / 2
    low = np.clip(centres - width / 2, 0, SIDE - width)[:, None]
    cells = np.arange(SIDE)
    overlap = np.clip(np.minimum(low + width, cells + 1) - np.maximum(low, cells), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def cosines(pixels: int) -> NDArray[np.float32]:
    """[K, pixels]: the lowest rows of the type-II cosine transform, c[k, n] = 2 cos(π k (2 n + 1) / 2 pixels)."""
    k, n = np.arange(FREQUENCIES)[:, None], np.arange(pixels)[None]
    return (2 * np.cos(np.pi * k * (2 * n + 1) / (2 * pixels))).astype(np.float32)


@cache
def _basis(count: int) -> NDArray[np.float32]:
    """[count * K, S]: the frequencies of the first `count` windows, straight from a thumbnail's rows."""
    if count == 1:
        return cosines(SIDE)
    inner = SIDE // 2
    return np.concatenate([cosines(inner) @ resampling(start, length, inner) for start, length in WINDOWS[:count]])


def _frequencies(levels: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """[N, S, S] -> [N, V, K, V, K]."""
    basis = _basis(count)
    found = np.matmul(np.matmul(basis, levels), basis.T)
    return found.reshape(len(levels), count, FREQUENCIES, count, FREQUENCIES)


def _mirrored(found: NDArray[np.float32]) -> NDArray[np.float32]:
    """The frequencies [..., K] of the pictures seen in a mirror: the odd horizontal ones change sign."""
    return found * np.where(np.arange(FREQUENCIES) % 2, -1, 1).astype(np.float32)


def _bits(found: NDArray[np.float32]) -> NDArray[np.uint64]:
    """[M, K, K] -> [M]: bit by bit, above the median or not; the lowest frequency is the most significant bit."""
    flat = np.where(np.abs(found) < FLAT, 0, found).reshape(-1, FREQUENCIES * FREQUENCIES)
    half = flat.shape[1] // 2
    middle = np.partition(flat, (half - 1, half), axis=1)[:, half - 1 : half + 1].mean(axis=1, keepdims=True)
    return np.packbits(flat > middle, axis=1).view(">u8")[:, 0].astype(np.uint64)
