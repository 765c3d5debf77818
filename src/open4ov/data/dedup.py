"""Near-duplicates of images and of texts: found exactly, and one of them stays by a rule that does not depend on luck.

Images: hashes within a Hamming radius, and colours that agree (a red and a blue drawing of one shape are two). Texts:
equal or nearly equal sets of character n-grams (Jaccard), in any script. All pairs are found, none by sampling: of two
texts as like as asked one of the rarest n-grams is shared, which an inverted index of those finds.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from open4ov.data import hamming, hashing

COLOUR = 24
"""Most mean difference of the colours of near-duplicates, of 255 levels, over 4 x 4 blocks."""

GRAM = 3
"""Characters of an n-gram. Text is compared without case, width, punctuation and spaces."""

Pair = tuple[int, int, float]


def image_pairs(prints: hashing.Print, radius: int) -> list[Pair]:
    """(i, j, bits) of all pictures i < j within `radius` bits of each other and of like colours."""
    left, right, distances = hamming.pairs(prints.hashes, radius)
    found: list[Pair] = []
    for begin in range(0, len(left), 1 << 16):
        i, j = left[begin : begin + (1 << 16)], right[begin : begin + (1 << 16)]
        off = np.abs(prints.colours[i].astype(np.int16) - prints.colours[j]).mean(axis=(1, 2, 3))
        for at in np.flatnonzero(off <= COLOUR):
            found.append((int(i[at]), int(j[at]), float(distances[begin + at])))
    return found


def text_pairs(texts: Sequence[str], least: float) -> list[Pair]:
    """(i, j, Jaccard) of all texts i < j whose sets of n-grams have a Jaccard index of at least `least` (above 0).

    Texts without a letter or digit are like no other.
    """
    if not 0 < least <= 1:
        raise ValueError(f"a Jaccard index of {least}; it can be above 0 and up to 1")
    sets = [grams(text) for text in texts]
    frequency = Counter(gram for one in sets for gram in one)
    postings: dict[str, list[int]] = defaultdict(list)
    found: list[Pair] = []
    for j, one in enumerate(sets):
        ordered = sorted(one, key=lambda gram: (frequency[gram], gram))
        # Sets with Jaccard >= t share at least t of the larger: they cannot miss each other in this many rarest grams.
        prefix = ordered[: len(ordered) - math.ceil(least * len(ordered) - 1e-9) + 1]
        for i in sorted({earlier for gram in prefix for earlier in postings[gram]}):
            other = sets[i]
            if min(len(one), len(other)) < least * max(len(one), len(other)) - 1e-9:
                continue
            shared = len(one & other)
            likeness = shared / (len(one) + len(other) - shared)
            if likeness >= least - 1e-12:
                found.append((i, j, likeness))
        for gram in prefix:
            postings[gram].append(j)
    return sorted(found)


def grams(text: str, size: int = GRAM) -> frozenset[str]:
    """The character n-grams of a text's letters and digits; a shorter text is its own n-gram."""
    plain = "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())
    if len(plain) <= size:
        return frozenset([plain] if plain else [])
    return frozenset(plain[at : at + size] for at in range(len(plain) - size + 1))


def keep(count: int, pairs: Sequence[Pair], rank: Sequence[tuple[int, str]]) -> dict[int, tuple[int, float]]:
    """Which of `count` things go: {number: (the one that stays for it, their distance or likeness)}.

    The one with the lowest rank stays (a number, then a name), and takes away all that are near
    itself. What is near only to something that goes stays: nothing is dropped for a likeness at second hand.
    """
    near: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for i, j, value in pairs:
        near[i].append((j, value))
        near[j].append((i, value))
    gone: dict[int, tuple[int, float]] = {}
    order = [at for _, at in sorted(zip(rank, range(count), strict=True))]
    for at in order:
        if at in gone:
            continue
        for other, value in near.get(at, ()):
            gone.setdefault(other, (at, value))
    return gone


def clusters(count: int, pairs: Sequence[Pair]) -> list[int]:
    """For each of `count` things the lowest number it is connected with, through any chain of pairs."""
    parent = list(range(count))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for i, j, _ in pairs:
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    return [root(at) for at in range(count)]
