"""The trained embedder: two towers that put pictures and short texts into one space (`assets/embedder`).

Texts: each feature of embedding.py (word, word part, character, pair) falls by its CRC-32 into one row of a table; the
rows are added up and scaled to length 1. Pictures: picture_features.py, standardised, then a layer, a gate and a layer
and length 1. Both were trained together to tell apart which text belongs to which picture (`bench/embedder_train.py`).

Shapes: N texts or pictures, D features of the space, B buckets of the table.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

from open4ov.assets import ROOT
from open4ov.mllm.embedding import features

Floats = NDArray[np.float32]
FOLDER = ROOT / "embedder"
WEIGHTS = FOLDER / "model.safetensors"
CALIBRATION = FOLDER / "calibration.json"


class Towers:
    """The weights of a file. `texts` and `images` give rows of length 1; what has no feature gives a zero row."""

    def __init__(self, path: Path = WEIGHTS) -> None:
        found = load_file(path)
        self._weights = {name: value.astype(np.float32) for name, value in found.items()}
        self.buckets, self.width = self._weights["text.table"].shape

    def texts(self, texts: Sequence[str]) -> Floats:
        """[N, D]"""
        rows = np.zeros((len(texts), self.width), dtype=np.float32)
        table = self._weights["text.table"]
        for row, text in zip(rows, texts, strict=True):
            places, counts = buckets(text, self.buckets)
            if len(places):
                row[:] = counts @ table[places]
        return unit(rows)

    def images(self, images: Sequence[Image.Image]) -> Floats:
        """[N, D]"""
        from open4ov.mllm import picture_features  # here: what embeds texts only needs no torch

        return self.pictures(picture_features.features(images)) if images else np.zeros((0, self.width), np.float32)

    def pictures(self, rows: Floats) -> Floats:
        """[N, D] of picture features [N, F]."""
        w = self._weights
        x = (rows - w["image.mean"]) * w["image.scale"]
        hidden = x @ w["image.in"].T + w["image.in_bias"]
        gated = (hidden / (1 + np.exp(-hidden))).astype(np.float32)
        found = gated @ w["image.out"].T + x @ w["image.skip"].T
        return unit(found.astype(np.float32))


@cache
def shipped() -> Towers:
    """The towers that ship in the package."""
    return Towers()


@lru_cache(maxsize=65536)
def buckets(text: str, count: int) -> tuple[NDArray[np.int64], Floats]:
    """The rows of the table that a text falls into, each once, and the square roots of how often."""
    totals: Counter[int] = Counter()
    for feature, times in Counter(features(text)).items():
        totals[zlib.crc32(feature.encode()) % count] += times
    return np.array(list(totals), dtype=np.int64), np.sqrt(np.array(list(totals.values()), dtype=np.float32))


def unit(rows: Floats) -> Floats:
    """Rows at length 1, zero rows as they are."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms == 0, 1, norms)).astype(np.float32)
