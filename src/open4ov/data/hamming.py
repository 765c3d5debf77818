"""All pairs of 64-bit hashes within a Hamming radius: exact, and in memory that does not grow with the pairs looked at.

A hash is cut into four words of 16 bits. Two hashes at most `radius` bits apart have a word that differs in at most
radius // 4 bits (else all four differ in more, and the sum is beyond the radius); so for each word every near value is
looked up in a sorted table, and what is found is counted bit by bit. Equal hashes are looked up once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

WORDS, BITS = 4, 16
MOST = 23
"""Largest radius: beyond it a word would have to be looked up with more than five bits turned."""

_BLOCK = 1 << 21  # candidate pairs held at a time
_TOGETHER = 1 << 16  # values looked up at a time, where there are fewer hashes

Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]


class Index:
    """Hashes [M] to be searched; `near` finds all of them within a radius of others."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self.size = len(hashes)
        self._order = np.argsort(hashes, kind="stable")
        self._unique, self._starts, self._counts = np.unique(hashes[self._order], return_index=True, return_counts=True)
        self._tables: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]] = []
        for word in range(WORDS):
            values = _word(self._unique, word)
            order = np.argsort(values, kind="stable")
            edges = np.searchsorted(values[order], np.arange((1 << BITS) + 1))
            self._tables.append((order, edges, self._unique[order]))

    def near(self, queries: NDArray[np.uint64], radius: int) -> Found:
        """(query numbers, hash numbers, distances), sorted; every pair within the radius, and no other."""
        unique, back = np.unique(queries, return_inverse=True)
        left, right, distances = self._unique_near(unique, radius)
        # unique pairs -> the queries and the hashes that have these values
        by_value = np.argsort(back, kind="stable")
        first = np.searchsorted(back[by_value], np.arange(len(unique)))
        amounts = np.bincount(back, minlength=len(unique))
        pair, query = _expand(first[left], amounts[left])
        pair_again, place = _expand(self._starts[right][pair], self._counts[right][pair])
        queries_found, hashes_found = by_value[query][pair_again], self._order[place]
        found = distances[pair][pair_again]
        order = np.lexsort((hashes_found, queries_found))
        return queries_found[order], hashes_found[order], found[order]

    def _unique_near(self, unique: NDArray[np.uint64], radius: int) -> Found:
        if not 0 <= radius <= MOST:
            raise ValueError(f"a radius of {radius} bits; it can be from 0 to {MOST}")
        lefts, rights, distances = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)]
        for word, (order, edges, sorted_hashes) in enumerate(self._tables):
            values = _word(unique, word)
            by_value = np.argsort(values, kind="stable")  # so that the table is walked from front to back
            values, asked = values[by_value], unique[by_value]
            masks = np.fromiter(_masks(radius // WORDS), np.int64)
            together = max(1, _TOGETHER // max(1, len(values)))  # few hashes: many masks at a time
            for begin in range(0, len(masks), together):
                wanted = (values ^ masks[begin : begin + together, None]).ravel()
                starts, counts = edges[wanted], edges[wanted + 1] - edges[wanted]
                for row, place in _blocks(starts, counts):
                    left = row if together == 1 else row % len(values)
                    difference = asked[left] ^ sorted_hashes[place]
                    distance = np.bitwise_count(difference)
                    good = np.flatnonzero(distance <= radius)
                    for earlier in range(word):  # a pair that an earlier word has found counts once
                        near = np.bitwise_count(_word(difference[good], earlier))
                        good = good[near > radius // WORDS]
                    lefts.append(by_value[left[good]])
                    rights.append(order[place[good]])
                    distances.append(distance[good])
        return np.concatenate(lefts), np.concatenate(rights), np.concatenate(distances)


def pairs(hashes: NDArray[np.uint64], radius: int) -> Found:
    """(i, j, distance) of all pairs i < j within the radius, sorted."""
    left, right, distances = Index(hashes).near(hashes, radius)
    once = left < right
    return left[once], right[once], distances[once]


def _word(hashes: NDArray[np.uint64], word: int) -> NDArray[np.int64]:
    return ((hashes >> np.uint64(BITS * word)) & np.uint64((1 << BITS) - 1)).astype(np.int64)


def _masks(most: int) -> Iterator[int]:
    for bits in range(most + 1):
        for places in combinations(range(BITS), bits):
            yield sum(1 << place for place in places)


def _blocks(
    starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """`_expand` of runs of rows that hold about `_BLOCK` pairs together (one row may hold more)."""
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
        row, place = _expand(starts[begin:end], counts[begin:end])
        yield row + begin, place
        begin = end


def _expand(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row its numbers starts, starts + 1, ... (`counts` of them): (row, number) of all."""
    rows = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, np.repeat(starts, counts) + offsets
