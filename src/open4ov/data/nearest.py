"""Exact k nearest keys by cosine within chosen groups: one matrix product, and little beside it.

Keys are laid out group after group, each group filled up to whole bundles of `BUNDLE` by repeating its last key. What
is allowed is then a matter of whole bundles, and so is most of the search: of a bundle only the maximum is looked at,
and the k bundles with the highest maxima hold the k best keys (each of them has a key at least as good as any key of
another bundle). Only those bundles are opened. Shapes: Q queries, N keys, D features, P padded keys, B bundles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from open4ov.errors import UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
BUNDLE = 32
AT_ONCE = 256  # bundles between product and maximum
BLOCK = 256  # queries scored at once
SCORES = 16_000_000  # scores held at once (64 MB): with very many keys fewer queries are scored at once


class Keys:
    """N keys [N, D], not necessarily of length 1, each in a group (`groups` [N], from 0). A zero row has cosine 0 with
    everything. Raises `UserError` for rows that are not finite."""

    def __init__(self, rows: Floats, groups: Ints) -> None:
        order = np.argsort(groups, kind="stable")
        sizes = np.bincount(groups)
        padded = -(-sizes // BUNDLE) * BUNDLE
        ends = np.cumsum(padded)
        place = np.arange(len(rows)) + np.repeat(ends - padded - (np.cumsum(sizes) - sizes), sizes)
        total = int(ends[-1]) if len(ends) else 0
        self._index = np.full(total, -1, dtype=np.int64)  # [P]: which key, -1 for a filler
        self._index[place] = order
        filled = np.maximum.accumulate(np.where(self._index >= 0, np.arange(total), 0))
        self._rows = unit(rows)[self._index[filled]]  # [P, D]
        self._group = np.repeat(np.arange(len(sizes)), padded)[::BUNDLE]  # [B]
        self.groups = len(sizes)
        self._scores = np.empty((0, 0), dtype=np.float32)

    def nearest(self, queries: Floats, allowed: NDArray[np.bool_], k: int) -> tuple[Ints, Floats]:
        """For each query [Q, D] the k best keys of the groups it allows [Q, groups]: their numbers [Q, k], best first,
        and cosines [Q, k]. Fewer than k leave -1 and -inf. Ties go to the lower number. One call at a time: the
        scores' memory is used again."""
        found, scores = np.full((len(queries), k), -1, dtype=np.int64), np.full((len(queries), k), -np.inf, np.float32)
        if not len(self._rows):
            return found, scores
        step = max(1, min(BLOCK, SCORES // len(self._rows)))
        queries = unit(queries)
        for start in range(0, len(queries), step):
            part = slice(start, min(start + step, len(queries)))
            width = part.stop - part.start
            if self._scores.shape[1] != width:
                self._scores = np.empty((len(self._rows), width), dtype=np.float32)
            bundles = self._scores.reshape(-1, BUNDLE, width)  # [B, BUNDLE, Q]
            best = np.empty((len(bundles), width), dtype=np.float32)  # [B, Q]
            right = np.ascontiguousarray(queries[part].T)
            for first in range(0, len(bundles), AT_ONCE):
                some = slice(first, min(first + AT_ONCE, len(bundles)))
                keys = slice(some.start * BUNDLE, some.stop * BUNDLE)
                np.matmul(self._rows[keys], right, out=self._scores[keys])
                np.max(bundles[some], axis=1, out=best[some])  # while they are in the processor's cache
            if not allowed[part].all():
                best[~allowed[part].T[self._group]] = -np.inf
            found[part], scores[part] = self._open(bundles, best, k)
        return found, scores

    def _open(self, bundles: Floats, best: Floats, k: int) -> tuple[Ints, Floats]:
        """The k best keys of each query from the bundles' scores [B, BUNDLE, Q] and maxima [B, Q]."""
        width, wanted = best.shape[1], min(k, len(best))
        top = np.argpartition(best, len(best) - wanted, axis=0)[len(best) - wanted :]  # [wanted, Q]
        bound = np.take_along_axis(best, top, axis=0).min(axis=0)
        crowded = (best >= bound).sum(axis=0) > wanted
        found, scores = np.full((width, k), -1, dtype=np.int64), np.full((width, k), -np.inf, dtype=np.float32)
        plain = np.flatnonzero(~crowded & np.isfinite(bound))
        if len(plain):
            chosen = top[:, plain]  # [wanted, Q']
            values = bundles[chosen[:, None, :], np.arange(BUNDLE)[None, :, None], plain]
            index = self._index.reshape(-1, BUNDLE)[chosen].transpose(0, 2, 1)
            index, values = index.reshape(-1, len(plain)), values.reshape(-1, len(plain))
            values = np.where(index < 0, -np.inf, values)
            order = np.lexsort((index, -values), axis=0)[:k]
            found[plain, : len(order)] = np.take_along_axis(index, order, axis=0).T
            scores[plain, : len(order)] = np.take_along_axis(values, order, axis=0).T
        for query in np.flatnonzero(crowded | ~np.isfinite(bound)):  # ties at the bound, or fewer than k bundles
            opened = np.flatnonzero((best[:, query] >= bound[query]) & np.isfinite(best[:, query]))
            index = self._index.reshape(-1, BUNDLE)[opened].ravel()
            real = index >= 0
            index, values = index[real], bundles[opened, :, query].ravel()[real]
            order = np.lexsort((index, -values))[:k]
            found[query, : len(order)], scores[query, : len(order)] = index[order], values[order]
        found[~np.isfinite(scores)] = -1
        return found, scores


def unit(rows: Floats) -> Floats:
    """Rows [N, D] at length 1, zero rows as they are. Raises `UserError` for values that are not finite."""
    rows = np.asarray(rows, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        row = int(np.flatnonzero(~np.isfinite(norms[:, 0]))[0])
        raise UserError(f"data.embedder: the embedding of text {row} holds values that are not finite")
    return (rows / np.where(norms == 0, 1, norms)).astype(np.float32)
