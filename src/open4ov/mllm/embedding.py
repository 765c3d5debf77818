"""The embedded text embedder: hashed character n-grams and words, no weights to download.

English words give themselves, their 3- and 4-grams with boundaries; Chinese text gives characters and pairs. Each
feature falls into one of D buckets with a sign, both from its CRC-32; counts are damped by a square root and rows
scaled to length 1. Texts that share words or word parts come close; synonyms do not. Name a real model in
`data.embedder` where that matters.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
DIM = 2048
_STOP = frozenset(
    ["a", "an", "the", "of", "on", "in", "at", "to", "for", "and", "or", "is", "are", "was", "be", "it", "its", "this"]
)
_TOKEN = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]+")


def embed_texts(texts: Sequence[str]) -> Floats:
    """[N, 2048], rows of length 1; a text without letters or digits gives a zero row."""
    rows = np.zeros((len(texts), DIM), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        indices, values = _hashed(text)
        row[indices] = values
    return rows


@lru_cache(maxsize=65536)
def _hashed(text: str) -> tuple[NDArray[np.int64], Floats]:
    totals: dict[int, float] = {}
    for feature, count in Counter(features(text)).items():
        code = zlib.crc32(feature.encode())
        bucket = code % DIM
        totals[bucket] = totals.get(bucket, 0.0) + (1.0 if code & 0x80000000 else -1.0) * count**0.5
    values = np.array(list(totals.values()), dtype=np.float32)
    norm = float(np.linalg.norm(values))
    return np.array(list(totals), dtype=np.int64), values / norm if norm else values


def features(text: str) -> Iterator[str]:
    """The words, word parts, characters and character pairs of a text; English function words are left out."""
    for token in _TOKEN.findall(text.casefold()):
        if token[0] > "\u3400":
            yield from token
            yield from (token[i : i + 2] for i in range(len(token) - 1))
        elif token not in _STOP:
            yield f"={token}"
            padded = f"<{token}>"
            for n in (3, 4):
                yield from (padded[i : i + n] for i in range(len(padded) - n + 1))
