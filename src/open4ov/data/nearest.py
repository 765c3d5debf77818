"""Exact k nearest keys by cosine within chosen groups: one matrix product, and little beside it.

Keys are laid out group after group, each group filled up to whole bundles of `BUNDLE` by repeating its last key. What
is allowed is then a matter of whole bundles, and so is most of the search: of a bundle only the maximum is looked at,
and the k bundles with the highest maxima hold the k best keys (each of them has a key at least as good as any key of
another bundle). Only those bundles are opened. Shapes: Q queries, N keys, D features, B bundles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from open4ov.errors import UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
BUNDLE = 32
AT_ONCE = 128  # bundles between product and maximum
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
        bundles = int(ends[-1]) // BUNDLE if len(ends) else 0
        parts = -(-bundles // AT_ONCE)
        each = -(-bundles // parts) if parts else 0  # bundles of a part; the last part may end in empty ones
        index = np.full(parts * each * BUNDLE, -1, dtype=np.int64)
        index[place] = order
        filled = np.maximum.accumulate(np.where(index >= 0, np.arange(len(index)), 0))
        self._index = index.reshape(-1, BUNDLE)  # [B, BUNDLE]: which key, -1 for a filler
        self._group = np.full(parts * each, len(sizes))  # [B]; the empty ones are in a group that nobody allows
        self._group[:bundles] = np.repeat(np.arange(len(sizes)), padded)[::BUNDLE]
        # The j-th keys of a part's bundles lie side by side, so that the maximum of each bundle is one of whole rows.
        lying = index[filled].reshape(parts, each, BUNDLE).transpose(0, 2, 1).reshape(parts, each * BUNDLE)
        normal = unit(rows)
        self._parts = [np.ascontiguousarray(normal[part].T) for part in lying]  # each [D, BUNDLE · each]
        self._each = each
        self._scores = np.empty((parts, 0, each * BUNDLE), dtype=np.float32)

    def nearest(self, queries: Floats, allowed: NDArray[np.bool_], k: int) -> tuple[Ints, Floats]:
        """For each query [Q, D] the k best keys of the groups it allows [Q, groups]: their numbers [Q, k], best first,
        and cosines [Q, k]. Fewer than k leave -1 and -inf. Ties go to the lower number. One call at a time: the
        scores' memory is used again."""
        found, scores = np.full((len(queries), k), -1, dtype=np.int64), np.full((len(queries), k), -np.inf, np.float32)
        if not self._parts:
            return found, scores
        step = max(1, min(BLOCK, SCORES // self._index.size))
        queries = unit(queries)
        for start in range(0, len(queries), step):
            part = slice(start, min(start + step, len(queries)))
            width = part.stop - part.start
            if self._scores.shape[1] != width:
                self._scores = np.empty((len(self._parts), width, BUNDLE * self._each), dtype=np.float32)
            opened = self._scores.reshape(len(self._parts), width, BUNDLE, self._each)
            best = np.empty((len(self._parts), width, self._each), dtype=np.float32)
            for number, keys in enumerate(self._parts):
                np.matmul(queries[part], keys, out=self._scores[number])
                np.max(opened[number], axis=1, out=best[number])  # while they are in the processor's cache
            best = best.transpose(1, 0, 2).reshape(width, -1)  # [Q, B]
            may = np.concatenate([allowed[part], np.zeros((width, 1), dtype=np.bool_)], axis=1)[:, self._group]
            best[~may] = -np.inf
            found[part], scores[part] = self._open(opened, best, k)
        return found, scores

    def _open(self, scores: Floats, best: Floats, k: int) -> tuple[Ints, Floats]:
        """The k best keys of each query from all scores [parts, Q, BUNDLE, each] and the bundles' maxima [Q, B]."""
        width, wanted = len(best), min(k, best.shape[1])
        top = np.argpartition(best, best.shape[1] - wanted, axis=1)[:, best.shape[1] - wanted :]  # [Q, wanted]
        bound = np.take_along_axis(best, top, axis=1).min(axis=1)
        crowded = ((best >= bound[:, None]).sum(axis=1) > wanted) | ~np.isfinite(bound)
        found, cosines = np.full((width, k), -1, dtype=np.int64), np.full((width, k), -np.inf, dtype=np.float32)

        def put(rows: Ints, bundles: Ints) -> None:
            """Opens bundles [R, b] of the queries `rows` [R]."""
            part, at = np.divmod(bundles, self._each)
            values = scores[part[:, :, None], rows[:, None, None], np.arange(BUNDLE), at[:, :, None]]
            index = self._index[bundles].reshape(len(rows), -1)
            values = np.where(index < 0, -np.inf, values.reshape(len(rows), -1))
            order = np.lexsort((index, -values), axis=1)[:, :k]
            found[rows, : order.shape[1]] = np.take_along_axis(index, order, axis=1)
            cosines[rows, : order.shape[1]] = np.take_along_axis(values, order, axis=1)

        plain = np.flatnonzero(~crowded)
        if len(plain):
            put(plain, top[plain])
        for query in np.flatnonzero(crowded):  # ties at the bound, or fewer than k bundles are allowed
            bundles = np.flatnonzero((best[query] >= bound[query]) & np.isfinite(best[query]))
            if len(bundles):
                put(np.array([query]), bundles[None])
        found[~np.isfinite(cosines)] = -1
        return found, cosines


def unit(rows: Floats) -> Floats:
    """Rows [N, D] at length 1, zero rows as they are. Raises `UserError` for values that are not finite."""
    rows = np.asarray(rows, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        row = int(np.flatnonzero(~np.isfinite(norms[:, 0]))[0])
        raise UserError(f"data.embedder: the embedding of text {row} holds values that are not finite")
    return (rows / np.where(norms == 0, 1, norms)).astype(np.float32)
