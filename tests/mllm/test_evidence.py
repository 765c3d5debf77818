"""Pixels and embedding recognise what they should, and say nothing where they cannot tell."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from open4ov import corpora
from open4ov.corpora import in_car
from open4ov.mllm.embedding import embed_texts
from open4ov.mllm.library import SEED, library
from open4ov.mllm.pixels import colour_of, cut_out

SYMBOLS = in_car.load()


@pytest.fixture(scope="module")
def pictures() -> list[tuple[in_car.Symbol, Image.Image]]:
    return [(symbol, in_car.render(symbol, "train", 3, 0)) for symbol in SYMBOLS]


def test_the_template_matcher_names_the_symbol_or_abstains(pictures: list[tuple[in_car.Symbol, Image.Image]]) -> None:
    seen = [(symbol, library().pixels.look(image)) for symbol, image in pictures]
    told = [(symbol, look) for symbol, look in seen if look.symbol is not None]
    assert len(told) >= 0.95 * len(seen)
    assert sum(look.symbol == symbol.id for symbol, look in told) >= 0.98 * len(told)
    assert sum(look.colour == symbol.colour for symbol, look in seen) >= 0.97 * len(seen)


def test_retrieval_finds_the_symbol_among_its_references(pictures: list[tuple[in_car.Symbol, Image.Image]]) -> None:
    found = [(symbol, library().index.nearest(image)) for symbol, image in pictures]
    right = [near is not None and near.found[0][0] == symbol.id for symbol, near in found]
    assert sum(right) >= 0.88 * len(right)
    sure = [ok for ok, (_, near) in zip(right, found, strict=True) if near is not None and near.lead >= 0.02]
    assert len(sure) >= 0.8 * len(right)
    assert sum(sure) >= 0.94 * len(sure)


def test_no_picture_of_a_run_is_its_own_reference() -> None:
    mine = in_car.render(SYMBOLS[0], "train", 0, 0)
    reference = in_car.render(SYMBOLS[0], "train", 0, SEED)
    assert np.abs(np.asarray(mine, dtype=int) - np.asarray(reference, dtype=int)).max() > 100


def test_pictures_of_other_things_match_no_symbol() -> None:
    """Everyday icons, charts and text drawn on the general corpora's plain grounds."""
    items = [item for task in ("naming", "charts", "reading") for item in corpora.generate(task, "val", 20)]
    looks = [library().pixels.look(item.images[0]) for item in items]
    assert sum(look.symbol is not None for look in looks) <= 0.1 * len(looks)


@pytest.mark.parametrize("ground", [(0, 0, 0), (128, 128, 128), (255, 255, 255)])
def test_an_empty_picture_gives_no_verdict(ground: tuple[int, int, int]) -> None:
    plain = Image.new("RGB", (96, 96), ground)
    assert cut_out(plain) is None
    assert library().pixels.look(plain).symbol is None
    assert library().index.nearest(plain) is None


def test_noise_gives_no_verdict() -> None:
    noise = Image.frombytes("RGB", (96, 96), random.Random("noise").randbytes(96 * 96 * 3))
    assert library().pixels.look(noise).symbol is None


def test_the_cut_is_the_same_wherever_the_drawing_stands() -> None:
    def drawn(x: int, y: int) -> Image.Image:
        image = Image.new("RGB", (96, 96), (12, 12, 16))
        ImageDraw.Draw(image).polygon([(x, y + 30), (x + 15, y), (x + 30, y + 30)], fill=(240, 60, 40))
        return image

    here, there = cut_out(drawn(5, 8)), cut_out(drawn(50, 40))
    assert here is not None
    assert there is not None
    assert float(here.vector @ there.vector) > 0.999
    assert (here.aspect, here.colour) == (there.aspect, "red")


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((230, 40, 35), "red"),
        ((200, 20, 60), "red"),
        ((250, 165, 30), "amber"),
        ((255, 240, 20), "yellow"),
        ((50, 200, 90), "green"),
        ((40, 90, 230), "blue"),
        ((225, 228, 235), "white"),
        ((60, 60, 62), None),
    ],
)
def test_colour_names(rgb: tuple[int, int, int], name: str | None) -> None:
    assert colour_of(np.full((50, 3), rgb, dtype=np.uint8)) == name


def test_text_embedding_puts_like_texts_near_and_is_the_same_everywhere() -> None:
    texts = ["low tyre pressure", "tyre pressure is low", "a bird in a tree", "胎压过低", "轮胎压力过低", ""]
    rows = embed_texts(texts)
    near = rows @ rows.T
    assert np.allclose(np.linalg.norm(rows[:5], axis=1), 1, atol=1e-6)
    assert not rows[5].any()
    assert near[0, 1] > 0.7 > 0.2 > near[0, 2]
    assert near[3, 4] > 0.35 > abs(float(near[3, 0]))
    # buckets by CRC-32 of the features "=q" and "<q>", the same in every process
    buckets = {zlib.crc32(feature) % 2048 for feature in (b"=q", b"<q>")}
    assert set(np.flatnonzero(embed_texts(["Q!"])[0]).tolist()) == buckets
