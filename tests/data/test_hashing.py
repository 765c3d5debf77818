"""Perceptual hashes against the definition of the cosine transform written out, and searches against brute force."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from open4ov.data import dedup, hamming, hashing


def photo(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """A picture with large and small structure."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def by_definition(thumbnail: np.ndarray) -> int:
    """The 64 bits, from the sums that define the type-II cosine transform."""
    grey = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in thumbnail.tolist()]
    side = len(grey)
    wave = [[2 * math.cos(math.pi * k * (2 * n + 1) / (2 * side)) for n in range(side)] for k in range(8)]
    inner = [[sum(wave[v][x] * row[x] for x in range(side)) for v in range(8)] for row in grey]
    found = [sum(wave[u][y] * inner[y][v] for y in range(side)) for u in range(8) for v in range(8)]
    middle = (sorted(found)[31] + sorted(found)[32]) / 2
    return int("".join("1" if value > middle else "0" for value in found), 2)


@pytest.mark.parametrize("seed", range(6))
def test_the_hash_is_that_of_the_definition(seed: int) -> None:
    image = photo(seed)
    assert hashing.phash(image) == by_definition(hashing.thumbnail(image))


def test_the_mirrored_hash_is_the_hash_of_the_mirror_image() -> None:
    thumbnails = np.stack([hashing.thumbnail(photo(seed)) for seed in range(8)])
    mirrored = hashing.prints(np.ascontiguousarray(thumbnails[:, :, ::-1])).hashes
    assert np.bitwise_count(mirrored ^ hashing.prints(thumbnails).mirrored).max() == 0


def test_windows_begin_with_the_whole_and_hash_what_they_show() -> None:
    image = photo(3, (640, 640))
    hashes = hashing.window_hashes(hashing.thumbnail(image)[None])[0]
    shares = hashing.windows()
    assert len(hashes) == len(shares) == len(hashing.WINDOWS) ** 2
    assert shares[0].tolist() == [0, 1, 0, 1]
    assert int(hashes[0] ^ np.uint64(hashing.phash(image))).bit_count() <= 2
    for at in (20, 77, 131, 255):
        top, height, left, width = shares[at] * 640
        cut = image.crop((round(left), round(top), round(left + width), round(top + height)))
        assert int(hashes[at] ^ np.uint64(hashing.phash(cut))).bit_count() <= 8


def test_altered_pictures_stay_near_and_others_far() -> None:
    bits = [hashing.phash(photo(seed)) for seed in range(20)]
    near = [hashing.phash(photo(seed).resize((90, 80)).point(lambda v: min(255, v + 12))) for seed in range(20)]
    assert max((a ^ b).bit_count() for a, b in zip(bits, near, strict=True)) <= 6
    assert min((bits[i] ^ bits[j]).bit_count() for i in range(20) for j in range(i)) >= 14


def test_plain_pictures_hash_alike_and_colours_tell_them_apart() -> None:
    thumbnails = np.stack([hashing.thumbnail(Image.new("RGB", (50, 70), c)) for c in ("white", "#808080", "#fefefe")])
    prints = hashing.prints(thumbnails)
    assert len(set(prints.hashes.tolist())) == 1
    assert [pair[:2] for pair in dedup.image_pairs(prints, 4)] == [(0, 2)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 25), st.integers(0, 15))
@example(5, 12, 25, 19)
@example(6, 9, 20, 23)  # the largest: ten times the turned words to look up
def test_pairs_are_those_of_brute_force(seed: int, strangers: int, relatives: int, radius: int) -> None:
    rng = random.Random(seed)
    base = [rng.getrandbits(64) for _ in range(strangers)]
    for _ in range(relatives if base else 0):
        flips = sum(1 << place for place in rng.sample(range(64), rng.randint(0, radius + 2)))
        base.append(rng.choice(base) ^ flips)
    expected = [
        (i, j, (base[i] ^ base[j]).bit_count())
        for i in range(len(base))
        for j in range(i + 1, len(base))
        if (base[i] ^ base[j]).bit_count() <= radius
    ]
    left, right, distances = hamming.pairs(np.array(base, np.uint64), radius)
    assert list(zip(left.tolist(), right.tolist(), distances.tolist(), strict=True)) == expected


def test_radii_beyond_the_index_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 23"):
        hamming.pairs(np.zeros(2, np.uint64), 24)
