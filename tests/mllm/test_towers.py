"""The shipped embedder: its arithmetic by hand, its weights, and what it was never shown."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import save_file

from open4ov.corpora import clipart, in_car
from open4ov.corpora.in_car.render import glyph, sign
from open4ov.corpora.shapes_vendor import HASH_RADIUS, difference_hash
from open4ov.mllm import Picture
from open4ov.mllm.embedder_rank import others
from open4ov.mllm.embedders import ShippedEmbedder
from open4ov.mllm.embedding import features
from open4ov.mllm.picture_features import WIDTH, square
from open4ov.mllm.towers import FOLDER, Towers, shipped, unit

MEDICAL = "hospital|ambulance|pill|syringe|stethoscope|needle|doctor|nurse|bandage|medicine|pharmacy|vaccine"


@pytest.fixture(scope="module")
def trained_on() -> list[dict[str, object]]:
    return pq.read_table(FOLDER / "pictures.parquet").to_pylist()


def small(path: Path) -> Towers:
    """Four buckets, two features of the space, three of a picture."""
    table = np.array([[1, 0], [0, 1], [2, 1], [-1, 3]], np.float16)
    weights = {"text.table": table, "image.mean": np.array([1, 0, 0], np.float32),
               "image.scale": np.array([2, 1, 1], np.float32), "image.in": np.array([[1, 0, 1]], np.float16),
               "image.in_bias": np.array([0.5], np.float16), "image.out": np.array([[1], [2]], np.float16),
               "image.skip": np.array([[0, 1, 0], [0, 0, -1]], np.float16)}  # fmt: skip
    save_file(weights, path)
    return Towers(path)


def test_texts_add_up_the_rows_of_their_features(tmp_path: Path) -> None:
    towers = small(tmp_path / "model.safetensors")
    table = np.array([[1, 0], [0, 1], [2, 1], [-1, 3]], float)
    counts = np.zeros(4)
    for feature in features("red cat red"):
        counts[zlib.crc32(feature.encode()) % 4] += 1
    row = np.sqrt(counts) @ table
    found = towers.texts(["red cat red", "!?"])
    assert np.allclose(found[0], row / np.linalg.norm(row), atol=1e-6)
    assert not found[1].any()


def test_pictures_go_through_a_gated_layer_and_past_it(tmp_path: Path) -> None:
    towers = small(tmp_path / "model.safetensors")
    # x = ((3 - 1) * 2, 1, -2) = (4, 1, -2); hidden = 4 - 2 + 0.5 = 2.5; gate = 2.5 / (1 + e^-2.5) = 2.310_354_6
    # out = (2.3103546 + 1, 4.6207092 + 2)
    row = np.array([3.3103546, 6.6207092])
    assert np.allclose(towers.pictures(np.array([[3, 1, -2]], np.float32)), row / np.linalg.norm(row), atol=1e-6)


def test_a_picture_is_cut_to_what_stands_out_of_its_border() -> None:
    plain = Image.new("RGB", (60, 40), (200, 210, 220))
    ImageDraw.Draw(plain).rectangle((10, 5, 29, 14), fill=(200, 30, 30))
    found = square(plain)
    assert found.size == (22, 22)  # 20 x 10, and 12 % more
    assert found.getpixel((0, 0)) == (200, 210, 220)
    assert found.getpixel((1, 6)) == (200, 30, 30)
    assert square(Image.new("RGB", (30, 10), "white")).size == (34, 34)
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert square(clear).getpixel((3, 3)) == (255, 255, 255)


def test_the_shipped_weights_are_small_and_of_the_right_shape() -> None:
    file = FOLDER / "model.safetensors"
    assert file.stat().st_size < 4.2e6
    towers = shipped()
    assert towers.pictures(np.zeros((2, WIDTH), np.float32)).shape == (2, towers.width)
    assert -1 < others() < 1
    readme = (FOLDER / "README.md").read_text("utf-8")
    assert "embedder_train" in readme
    assert "CC-BY" in readme


def test_it_knows_everyday_drawings_by_name() -> None:
    """These drawings are among those that it was trained on: that the weights and the code belong together."""
    names = ["butterfly", "guitar", "pizza", "tree", "hammer", "fish", "castle", "umbrella", "penguin", "strawberry"]
    names = [name for name in names if name in clipart.names()]
    pictures = [Picture(name, lambda name=name: clipart.picture(name, 128, False)) for name in names]
    embedder = ShippedEmbedder()
    near = embedder.images(pictures) @ embedder.texts(names).T
    assert (near.argmax(axis=1) == np.arange(len(names))).mean() >= 0.6
    assert np.allclose(np.linalg.norm(embedder.images(pictures[:1]), axis=1), 1, atol=1e-5)
    assert embedder.images([]).shape == (0, shipped().width)


def test_words_that_mean_alike_lie_nearer_than_others() -> None:
    for one, alike, other in (
        ("guitar", "musical instrument", "sandwich"),
        ("猫", "cat", "guitar"),
        ("apple", "fruit", "computer"),
        ("苹果", "apple", "train"),
    ):
        rows = shipped().texts([one, alike, other])
        assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2, one


def test_no_symbol_of_a_vertical_is_among_the_pictures_by_hash(trained_on: list[dict[str, object]]) -> None:
    bits = np.stack([np.unpackbits(np.frombuffer(bytes(row["difference_hash"]), np.uint8)) for row in trained_on])  # pyright: ignore
    assert len(bits) > 5000
    for symbol in in_car.load():
        if symbol.codepoint is not None:
            board = glyph(symbol)
        else:
            drawing = sign(symbol)
            board = Image.new("RGB", (128, 128), (128, 128, 128))
            board.paste(drawing.convert("RGB"), ((128 - drawing.width) // 2, (128 - drawing.height) // 2), drawing)
        away = (bits != difference_hash(board)).sum(axis=1)
        assert away.min() > HASH_RADIUS, (symbol.id, trained_on[int(away.argmin())])


def test_no_name_of_a_vertical_is_among_the_texts(trained_on: list[dict[str, object]]) -> None:
    kept_out = in_car.excluded()
    ids = {(str(row["source"]), str(row["id"])) for row in trained_on}
    assert not {("mdi", name) for name in (*kept_out["automotive"], *kept_out["medical"])} & ids
    prefixes = tuple(kept_out["openclipart_prefixes"])
    assert not [name for source, name in ids if source == "openclipart" and name.startswith(prefixes)]
    said = "\n".join(str(row["said"]) for row in trained_on).casefold()
    english = "|".join(re.escape(name.casefold()) for name in in_car.fragments("en"))
    assert (found := re.search(rf"\b(?:{english})\b", said)) is None, found
    assert not [name for name in in_car.fragments("zh") if name in said]
    assert (found := re.search(rf"\b(?:{MEDICAL})\b", said)) is None, found


def test_the_calibration_says_how_it_was_made() -> None:
    told = json.loads((FOLDER / "calibration.json").read_text("utf-8"))
    assert "validation split" in told["how"]
    assert told["others"] == others()
    assert np.allclose(unit(np.array([[3.0, 4.0], [0, 0]], np.float32)), [[0.6, 0.8], [0, 0]])
