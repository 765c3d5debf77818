"""The tower's pictures: labels that say what is there, and no shape of a vertical."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw
from test_general import ink

from open4ov.corpora import fonts, icons, in_car, palette, shapes, text
from open4ov.corpora.shapes import IGNORE, NOTHING, SLOTS, TOKEN

IDENTITY = {index: key for key, index in shapes.identities().items()}
COLOUR = {index: key for key, index in shapes.colours().items()}
CHARACTER = {index: key for key, index in shapes.alphabet().items()}


def drawn(code: int) -> np.ndarray:
    canvas = Image.new("L", (96, 96))
    ImageDraw.Draw(canvas).text((48, 48), chr(code), font=icons._font(64), fill=255, anchor="mm")
    return ink(canvas.crop(canvas.getbbox()))


def test_shapes_are_many_and_none_is_a_verticals() -> None:
    kept_out = in_car.excluded()
    assert len(shapes.shapes()) > 6000
    assert not shapes.shapes().keys() & {*kept_out["automotive"], *kept_out["medical"]}
    used = [symbol.icon for symbol in in_car.load() if symbol.icon]
    assert len(used) > 50
    assert not [name for name in shapes.shapes() if name.startswith(tuple(f"{icon}-" for icon in used))]


def test_no_shape_looks_like_a_tell_tale() -> None:
    table = np.stack([drawn(code) for code in shapes.shapes().values()])
    names = list(shapes.shapes())
    for symbol in in_car.load():
        if symbol.codepoint:
            alike = table @ drawn(int(symbol.codepoint, 16))
            assert alike.max() < 0.9, (symbol.id, names[int(alike.argmax())])


def test_a_picture_is_a_function_of_its_generator() -> None:
    for number in range(30):
        one, same = (shapes.picture(random.Random(f"same {number}")) for _ in range(2))
        assert one.image.tobytes() == same.image.tobytes()
        assert (one.identity == same.identity).all()
        assert (one.characters == same.characters).all()


def test_every_token_is_labelled_with_what_covers_it() -> None:
    seen = 0
    for number in range(300):
        picture = shapes.picture(random.Random(number))
        count = (picture.image.width // TOKEN) * (picture.image.height // TOKEN)
        assert picture.identity.shape == picture.colour.shape == (count,)
        assert picture.characters.shape == (count, SLOTS)
        pixels = np.asarray(picture.image, dtype=np.int64)
        columns = picture.image.width // TOKEN
        for place, (identity, colour) in enumerate(zip(picture.identity, picture.colour, strict=True)):
            row, column = divmod(place, columns)
            cell = pixels[row * TOKEN : (row + 1) * TOKEN, column * TOKEN : (column + 1) * TOKEN].reshape(-1, 3)
            if identity == NOTHING:
                assert cell.std(0).max() < 35  # nothing but background, a stray edge and grain
            elif identity != IGNORE:
                seen += 1
                paint = np.asarray(palette.COLOURS.get(COLOUR.get(colour, ""), (0, 0, 0)))
                filled = np.abs(cell.mean(0) - paint).max() < 20
                assert cell.std(0).max() > 5 or filled, (number, place, IDENTITY[identity])
    assert seen > 300


def test_one_colour_stands_for_one_shape() -> None:
    for number in range(200):
        picture = shapes.picture(random.Random(number))
        shown = {(i, c) for i, c in zip(picture.identity.tolist(), picture.colour.tolist(), strict=True) if i > 0}
        for identity, colour in shown:
            assert (colour == IGNORE) == IDENTITY[identity].startswith("drawing"), number
            assert colour == IGNORE or COLOUR[colour] != "none"


def test_text_is_labelled_in_reading_order() -> None:
    read = 0
    for number in range(150):
        rng = random.Random(f"text {number}")
        scene = text.text(random.Random(f"text {number}"), "train")
        picture = shapes._text(rng)
        rows = picture.image.height // TOKEN
        said = ["".join(CHARACTER[c] for c in slots if c) for slots in picture.characters.tolist()]
        columns = len(said) // rows
        lines = ["".join(said[row * columns : (row + 1) * columns]) for row in range(rows)]
        wanted = "".join(line.replace(" ", "") for line in scene["lines"])
        found = "".join(lines).replace(" ", "")
        if len(found) == len(wanted):  # a narrow letter may be the fifth of its token and left out
            read += 1
            assert found == wanted
    assert read > 120


def test_middles_lie_where_the_ink_is() -> None:
    line = "I.I"
    ink_columns = np.asarray(fonts.mask(line, 28)).sum(0)
    first, _, last = fonts.middles(line, 28)
    assert ink_columns[round(first)] > 0
    assert ink_columns[round(last)] > 0
    assert 0 < first < last < len(ink_columns)
