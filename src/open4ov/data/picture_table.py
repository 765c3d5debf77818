"""What is kept of many pictures to compare them: hashes, sizes and who shows them, in arrays.

Held of a picture are 108 bytes, whatever it is; of a sample the numbers of its pictures. Tables of chunks are joined.

Shapes: P pictures (rows; a picture that several chunks show has a row in each), S samples, E sample-picture pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from open4ov.data import hashing
from open4ov.sample import Sample
from open4ov.store import atomic

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """The pictures of some samples. `shas` [P, 32] bytes, `prints` of P, `sizes` [P] in pixels; `counts` [S]: how many
    pictures each sample shows; `places` [E]: which rows, sample after sample."""

    shas: NDArray[np.uint8]
    prints: hashing.Print
    sizes: Ints
    counts: Ints
    places: Ints

    @cached_property
    def _distinct(self) -> tuple[Ints, Ints]:
        """The first row [U] of every picture, in order of rows, and the number of each row's picture [P]."""
        words = np.ascontiguousarray(self.shas).view(np.uint64).reshape(len(self.shas), 4)
        _, first, number = np.unique(words, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return first[order], rank[number.reshape(-1)]

    @property
    def first(self) -> Ints:
        """The first row of each of U pictures."""
        return self._distinct[0]

    @cached_property
    def shown(self) -> Ints:
        """[E]: the number, below U, of each picture that a sample shows."""
        return self._distinct[1][self.places]

    @cached_property
    def shows(self) -> Ints:
        """[E]: the sample of each pair."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def _ends(self) -> Ints:
        return np.cumsum(self.counts)

    @cached_property
    def owner(self) -> Ints:
        """[U]: the first sample that shows each picture."""
        found = np.empty(len(self.first), dtype=np.int64)
        found[self.shown[::-1]] = self.shows[::-1]
        return found

    def number(self, row: int) -> int:
        """Which picture a row is."""
        return int(self._distinct[1][row])

    def of(self, sample: int) -> list[int]:
        """The numbers of a sample's pictures."""
        end = int(self._ends[sample])
        return self.shown[end - int(self.counts[sample]) : end].tolist()

    def sha(self, number: int) -> str:
        return bytes(self.shas[self.first[number]]).hex()

    def all_in(self, chosen: NDArray[np.bool_]) -> Ints:
        """The samples all of whose pictures, at least one, are among the chosen [U]."""
        inside = np.bincount(self.shows, chosen[self.shown], len(self.counts))
        return np.flatnonzero((inside == self.counts) & (self.counts > 0))

    def any_in(self, chosen: NDArray[np.bool_]) -> Ints:
        """The samples one of whose pictures is among the chosen [U]."""
        return np.flatnonzero(np.bincount(self.shows, chosen[self.shown], len(self.counts)) > 0)

    def without(self, samples: Sequence[int]) -> Pictures:
        """Those that the other samples show, a row each; the samples keep their numbers."""
        stay = np.ones(len(self.counts), dtype=np.bool_)
        stay[list(samples)] = False
        pairs = stay[self.shows]
        numbers, places = np.unique(self.shown[pairs], return_inverse=True)
        rows = self.first[numbers]
        counts = np.where(stay, self.counts, 0)
        return Pictures(self.shas[rows], self.prints.rows(rows), self.sizes[rows], counts, places.reshape(-1))

    def write(self, path: Path) -> None:
        """Keeps them as a file of arrays."""
        prints = self.prints
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file, shas=self.shas, hashes=prints.hashes, mirrored=prints.mirrored, colours=prints.colours,
                sizes=self.sizes, counts=self.counts, places=self.places,
            )  # fmt: skip


def read(path: Path) -> Pictures:
    """What `write` kept."""
    with np.load(path, allow_pickle=False) as found:
        prints = hashing.Print(found["hashes"], found["mirrored"], found["colours"])
        return Pictures(found["shas"], prints, found["sizes"], found["counts"], found["places"])


def table(samples: Sequence[Sample], prints: Sequence[hashing.Print], sizes: Sequence[int]) -> Pictures:
    """Of samples whose different pictures, in order, have these prints (in batches) and sizes."""
    shas = distinct(samples)
    row = {sha: n for n, sha in enumerate(shas)}
    digests = b"".join(map(bytes.fromhex, shas))
    return Pictures(
        np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32),
        hashing.joined(prints),
        np.array(sizes, dtype=np.int64),
        np.array([len(sample.images) for sample in samples], dtype=np.int64),
        np.array([row[sha] for sample in samples for sha in sample.images], dtype=np.int64),
    )


def distinct(samples: Sequence[Sample]) -> list[str]:
    """The SHA-256 of every picture that samples show, each once, in order."""
    return list(dict.fromkeys(sha for sample in samples for sha in sample.images))


def joined(parts: Sequence[Pictures]) -> Pictures:
    """The pictures of several parts as those of all samples, part after part."""
    starts = np.cumsum([0, *(len(part.shas) for part in parts)])
    return Pictures(
        np.concatenate([np.zeros((0, 32), np.uint8), *(part.shas for part in parts)]),
        hashing.joined([part.prints for part in parts]),
        np.concatenate([np.zeros(0, np.int64), *(part.sizes for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.counts for part in parts)]),
        np.concatenate(
            [np.zeros(0, np.int64), *(part.places + start for part, start in zip(parts, starts, strict=False))]
        ),
    )
