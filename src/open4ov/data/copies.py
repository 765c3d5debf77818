"""Finds pictures again that were copied, re-encoded, resized, tinted, mirrored or cropped.

Hashes propose, pixels decide.

Proposals: hashes of the whole picture and of overlapping windows, within a generous Hamming radius. Decision: the two
thumbnails are laid over each other where the windows say and near it, and the correlation of their grey levels must be
high at the best place. A crop must leave about six tenths of each side; a smaller piece is
not found, nor one of a fine even texture (grass, gravel).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from open4ov.data import hamming, hashing

Kind = Literal["copy", "mirrored", "crop", "part"]

PROPOSED = 15
"""Bits in which a proposed pair may differ."""

LIKENESS = 0.93
"""Least correlation of grey levels, of two pictures that are one."""

COLOUR = 45
"""Most mean difference of colours, of 255 levels, over the 4 x 4 blocks of two whole pictures that are one."""

PLAIN = 4
"""Two pictures of one colour each (nothing to correlate) are one when no block differs by more levels than this."""

_SIDE = 24  # pixels a side at which two pictures are compared
_HOPELESS, _CERTAIN = 0.45, 0.985  # correlations at a proposed place below and above which no better one is looked for


@dataclass(frozen=True)
class Hit:
    """Picture `query` shows what picture `known` shows.

    `kind`: the same picture, its mirror image, a crop of it, or one that it is a part of. `distance`: bits of the
    hashes that proposed it; `likeness`: correlation of grey levels, at most 1.
    """

    query: int
    known: int
    kind: Kind
    distance: int
    likeness: float


class Gallery:
    """Known pictures, as thumbnails [M, S, S, 3], in which others are looked for."""

    def __init__(self, thumbnails: NDArray[np.uint8]) -> None:
        self._thumbnails = thumbnails
        self._prints = hashing.prints(thumbnails)
        self._whole = hamming.Index(self._prints.hashes)
        parts = [hashing.window_hashes(part) for part in _chunks(thumbnails)]
        self._per = len(hashing.WINDOWS) ** 2
        self._parts = hamming.Index(np.concatenate(parts).ravel() if parts else np.zeros(0, np.uint64))
        self._windows = hashing.windows()

    def find(self, thumbnails: NDArray[np.uint8]) -> list[Hit]:
        """At most one hit, the likest, for each pair of a query [N, S, S, 3] and a known picture; in their order."""
        if not len(thumbnails) or not len(self._thumbnails):
            return []
        best: dict[tuple[int, int], Hit] = {}
        levels = hashing.grey(thumbnails)
        known_levels = _Levels(self._thumbnails)
        colours = hashing.prints(thumbnails).colours.astype(np.int64)
        for query, known, distance, kind, window in self._proposals(thumbnails):
            found = best.get((query, known))
            if found and (found.likeness >= LIKENESS or kind in ("copy", "mirrored")):
                continue
            left, right = levels[query], known_levels[known]
            if kind == "copy" or kind == "mirrored":
                mirrored = kind == "mirrored"
                theirs = self._prints.colours[known].astype(np.int64)
                off = np.abs(colours[query][:, :: -1 if mirrored else 1] - theirs)
                if max(left.std(), right.std()) < 2:
                    likeness = float(off.max() <= PLAIN)
                elif off.mean() <= COLOUR:
                    likeness = _best(left[:, ::-1] if mirrored else left, right, window)
                else:
                    likeness = 0.0
            elif kind == "crop":
                likeness = _best(left, right, window)
            else:
                likeness = _best(right, left, window)
            if found is None or likeness > found.likeness:
                best[query, known] = Hit(query, known, kind, distance, round(likeness, 4))
        return [best[pair] for pair in sorted(best) if best[pair].likeness >= LIKENESS]

    def _proposals(
        self, thumbnails: NDArray[np.uint8]
    ) -> Iterator[tuple[int, int, int, Kind, tuple[float, float, float, float]]]:
        prints = hashing.prints(thumbnails)
        whole = (0.0, 1.0, 0.0, 1.0)
        proposed: tuple[tuple[Kind, NDArray[np.uint64]], ...] = (("copy", prints.hashes), ("mirrored", prints.mirrored))
        for kind, hashes in proposed:
            for query, known, distance in zip(*self._whole.near(hashes, PROPOSED), strict=True):
                yield int(query), int(known), int(distance), kind, whole
        queries, places, distances = self._parts.near(prints.hashes, PROPOSED)
        yield from self._nearest("crop", queries, places // self._per, places % self._per, distances)
        windows = hashing.window_hashes(thumbnails)
        places, known, distances = self._whole.near(windows.ravel(), PROPOSED)
        yield from self._nearest("part", places // self._per, known, places % self._per, distances)

    def _nearest(
        self,
        kind: Kind,
        queries: NDArray[np.int64],
        known: NDArray[np.int64],
        windows: NDArray[np.int64],
        distances: NDArray[np.uint8],
    ) -> Iterator[tuple[int, int, int, Kind, tuple[float, float, float, float]]]:
        """Of each pair the two nearest windows."""
        order = np.lexsort((windows, distances, known, queries))
        taken, before = 0, (-1, -1)
        for at in order:
            pair = int(queries[at]), int(known[at])
            taken = taken + 1 if pair == before else 1
            before = pair
            if taken <= 2:
                top, height, left, width = (float(part) for part in self._windows[windows[at]])
                yield *pair, int(distances[at]), kind, (top, height, left, width)


class _Levels:
    """Grey levels of single thumbnails, made when they are asked for."""

    def __init__(self, thumbnails: NDArray[np.uint8]) -> None:
        self._thumbnails = thumbnails

    def __getitem__(self, at: int) -> NDArray[np.float32]:
        return hashing.grey(self._thumbnails[at][None])[0]


def _best(piece: NDArray[np.float32], whole: NDArray[np.float32], window: tuple[float, float, float, float]) -> float:
    """The highest correlation of `piece` [S, S] with windows of `whole` [S, S] at and near the one given."""
    top, height, left, width = window
    row, column = (_pixel(top), _pixel(top + height)), (_pixel(left), _pixel(left + width))
    found = float(_correlations(piece, whole, [row], [column])[0, 0])
    for moves in ((-4, -2, 0, 2, 4), (-1, 0, 1)):
        if found < _HOPELESS or found >= _CERTAIN:
            break
        rows, columns = _around(row, moves), _around(column, moves)
        scores = _correlations(piece, whole, rows, columns)
        at, beside = divmod(int(scores.argmax()), len(columns))
        row, column, found = rows[at], columns[beside], float(scores[at, beside])
    return found


def _pixel(share: float) -> int:
    return round(share * hashing.SIDE)


def _around(window: tuple[int, int], moves: tuple[int, ...]) -> list[tuple[int, int]]:
    """Windows whose ends are moved by so many pixels of the thumbnail, inside it."""
    ends = {
        (min(max(window[0] + a, 0), hashing.SIDE), min(max(window[1] + b, 0), hashing.SIDE))
        for a, b in product(moves, repeat=2)
    }
    return sorted((low, high) for low, high in ends if high - low > hashing.SIDE // 3)


@cache
def _resampling(low: int, high: int) -> NDArray[np.float32]:
    return hashing.resampling(low / hashing.SIDE, (high - low) / hashing.SIDE, _SIDE)


def _correlations(
    piece: NDArray[np.float32],
    whole: NDArray[np.float32],
    rows: list[tuple[int, int]],
    columns: list[tuple[int, int]],
) -> NDArray[np.float32]:
    """[rows, columns] correlations of the piece with these windows of the whole; 0 where either is flat."""
    small = _resampling(0, hashing.SIDE)
    aim = (small @ piece @ small.T).ravel()
    aim -= aim.mean()
    down = np.concatenate([_resampling(*row) for row in rows])
    across = np.concatenate([_resampling(*column) for column in columns])
    cut = (down @ whole @ across.T).reshape(len(rows), _SIDE, len(columns), _SIDE).transpose(0, 2, 1, 3)
    cut = cut.reshape(len(rows), len(columns), -1)
    # The mean of `aim` is 0, so the mean of `cut` need not be taken off above, only from its length below.
    lengths = np.einsum("rcp,rcp->rc", cut, cut) - cut.shape[2] * cut.mean(axis=2) ** 2
    norms = np.sqrt(np.maximum(lengths, 0)) * np.linalg.norm(aim)
    return np.where(norms > _SIDE * _SIDE, cut @ aim / np.maximum(norms, 1e-6), 0).astype(np.float32)


def _chunks(thumbnails: NDArray[np.uint8], size: int = 256) -> Iterator[NDArray[np.uint8]]:
    for begin in range(0, len(thumbnails), size):
        yield thumbnails[begin : begin + size]
