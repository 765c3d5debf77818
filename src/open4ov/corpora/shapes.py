"""Pictures for the vision tower alone: many objects whose identity is known, and text, labelled for every visual token.

A vision-language model is seldom built on an untrained tower. This is what the nano tower sees first: about 6,700
Material Design Icons (`assets/corpora/mdi/shapes.json`: every glyph of the font that is no glyph of a vertical and
does not look like one; `shapes_vendor.py` made it), the drawings, characters and written text. What the tower learns
here is to tell shapes apart, those of a vertical too that it has never seen.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from open4ov.corpora import clipart, fonts, icons, palette, scenes, text

TOKEN = 32
"""Side of what one visual token sees, in pixels (patch of 16, merge of 2)."""
SLOTS = 4
"""Characters that a token can be labelled with, from left to right."""
IGNORE = -100
NOTHING = 0
"""The label of a token, or of a slot, with nothing in it."""
_SIDE = 96


@dataclass
class Labelled:
    """A picture and the labels of its M visual tokens, row by row; IGNORE where there is no clear answer."""

    image: Image.Image
    identity: NDArray[np.int64]
    """[M]: index into `identities()`"""
    colour: NDArray[np.int64]
    """[M]: index into `colours()`"""
    characters: NDArray[np.int64]
    """[M, SLOTS]: indices into `alphabet()`"""


@cache
def shapes() -> dict[str, int]:
    """Code point of each icon by its name in Material Design Icons, in name order."""
    rows = json.loads((icons.ASSETS / "mdi" / "shapes.json").read_text("utf-8"))
    return {name: int(code, 16) for name, code in rows.items()}


@cache
def identities() -> dict[str, int]:
    """Index of each thing that a token may show; 0 is nothing."""
    keys = [f"icon {name}" for name in sorted({*shapes(), *(s.mdi for s in icons.symbols().values())})]
    keys += [f"drawing {name}" for name in clipart.names()]
    keys += [f"character {name}" for name in scenes.DIGITS + scenes.LETTERS]
    return {key: index for index, key in enumerate(["nothing", *keys])}


@cache
def colours() -> dict[str, int]:
    """Colour -> class of the tower's colour label; class 0 is none."""
    return {name: index for index, name in enumerate(["none", *palette.COLOURS])}


@cache
def alphabet() -> dict[str, int]:
    """Character -> class of the tower's reading label; class 0 is none."""
    return {name: index for index, name in enumerate(["", *sorted(fonts.characters())])}


def picture(rng: random.Random, easy: bool = False) -> Labelled:
    """One labelled picture: a large object, a grid, objects anywhere, or text.

    `easy`: mostly grids, of the symbols that have names; a tower that has learnt nothing yet finds its feet there.
    """
    kind = rng.choices(("single", "grid", "free", "text"), (10, 74, 4, 12) if easy else (36, 24, 20, 20))[0]
    if kind == "text":
        return _text(rng)
    ground = palette.background(rng, 0.35)
    image = Image.new("RGB", (_SIDE, _SIDE), palette.shade(palette.BACKGROUNDS[ground], rng, 6))
    owners = np.zeros((_SIDE, _SIDE), dtype=np.int64)  # which object inked each pixel, from 1
    things: list[tuple[int, int]] = []
    for pixels, x, y in {"single": _one, "grid": _cells, "free": _anywhere}[kind](rng):
        drawings = ground in palette.LIGHT and pixels > 27
        identity, colour, ink, paint = _thing(rng, pixels, palette.on(ground), drawings, 1.0 if easy else 0.6)
        if kind == "single" or rng.random() < 0.2:
            ink, paint = _turned(ink, paint, rng.uniform(-7, 7))
        left, top = x - ink.width // 2, y - ink.height // 2
        image.paste(
            paint,
            (left, top, left + ink.width, top + ink.height) if isinstance(paint, Image.Image) else (left, top),
            ink,
        )
        things.append((identity, colour))
        _own(owners, ink, left, top, len(things))
    identity, colour = _labels(owners, things)
    return Labelled(_worn(image, rng), identity, colour, np.full((len(identity), SLOTS), IGNORE))


def _one(rng: random.Random) -> list[tuple[int, int, int]]:
    pixels = rng.randint(68, 96)
    slack = min(4, max(0, (_SIDE - pixels) // 2))
    return [(pixels, _SIDE // 2 + rng.randint(-slack, slack), _SIDE // 2 + rng.randint(-slack, slack))]


def _cells(rng: random.Random) -> list[tuple[int, int, int]]:
    middles = [TOKEN // 2 + TOKEN * i for i in range(_SIDE // TOKEN)]
    places = [(rng.randint(20, 33), x + rng.randint(-1, 1), y + rng.randint(-1, 1)) for x in middles for y in middles]
    return [place for place in places if rng.random() < 0.85]


def _anywhere(rng: random.Random) -> list[tuple[int, int, int]]:
    placed: list[tuple[int, int, int]] = []
    for _ in range(rng.randint(2, 5)):
        pixels = rng.randint(24, 36)
        x, y = (TOKEN * rng.randrange(_SIDE // TOKEN) + TOKEN // 2 + rng.randint(-2, 2) for _ in range(2))
        if all(max(abs(x - u), abs(y - v)) >= (pixels + other) // 2 for other, u, v in placed):
            placed.append((pixels, x, y))
    return placed


def _thing(
    rng: random.Random, pixels: int, on: list[str], drawings: bool, named: float
) -> tuple[int, int, Image.Image, Image.Image | palette.RGB]:
    """identity, colour (IGNORE for drawings), mask, and what is painted through it."""
    draw = rng.random()
    if drawings and draw < 0.15:
        name = rng.choice(clipart.names())
        drawing = clipart.picture(name, pixels, rng.random() < 0.5)
        return identities()[f"drawing {name}"], IGNORE, drawing.getchannel("A"), drawing.convert("RGB")
    colour = rng.choice(on)
    paint = palette.shade(palette.COLOURS[colour], rng)
    if draw < 0.22 and pixels < 48:
        name = rng.choice(scenes.DIGITS + scenes.LETTERS)
        ink = fonts.mask(name, pixels // 2 * 2 - 4, rng.random() < 0.4)
        return identities()[f"character {name}"], colours()[colour], ink, paint
    known = draw < named  # those that conversations will name come more often
    name = icons.symbols()[rng.choice(icons.names())].mdi if known else rng.choice(list(shapes()))
    ink = _glyph(name)
    scale = pixels / 96
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.BOX)
    return identities()[f"icon {name}"], colours()[colour], ink, paint


@cache
def _codes() -> dict[str, int]:
    return {**shapes(), **{s.mdi: s.codepoint for s in icons.symbols().values()}}


@cache
def _font() -> ImageFont.FreeTypeFont:
    file = io.BytesIO((icons.ASSETS / "mdi" / "materialdesignicons.ttf").read_bytes())
    return ImageFont.truetype(file, 96, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=8192)
def _glyph(name: str) -> Image.Image:
    """An icon's mask on an em square of 96 pixels, cropped to its ink."""
    canvas = Image.new("L", (144, 144))
    ImageDraw.Draw(canvas).text((72, 72), chr(_codes()[name]), font=_font(), fill=255, anchor="mm")
    return canvas.crop(canvas.getbbox())


def _turned(
    ink: Image.Image, paint: Image.Image | palette.RGB, angle: float
) -> tuple[Image.Image, Image.Image | palette.RGB]:
    ink = ink.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    if isinstance(paint, Image.Image):
        paint = paint.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return ink, paint


def _own(owners: NDArray[np.int64], ink: Image.Image, left: int, top: int, owner: int) -> None:
    """Marks the pixels that the mask, placed at (left, top), covers."""
    x, y = max(left, 0), max(top, 0)
    right, bottom = min(left + ink.width, _SIDE), min(top + ink.height, _SIDE)
    if right > x and bottom > y:
        covered = np.asarray(ink)[y - top : bottom - top, x - left : right - left] > 127
        owners[y:bottom, x:right][covered] = owner


def _labels(owners: NDArray[np.int64], things: list[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each token belongs to the object with most ink in it; to none when there is almost none; unclear between."""
    side = _SIDE // TOKEN
    cells = owners.reshape(side, TOKEN, side, TOKEN).transpose(0, 2, 1, 3).reshape(side * side, -1)
    identity, colour = np.full(side * side, IGNORE), np.full(side * side, IGNORE)
    for place, cell in enumerate(cells):
        inked = np.bincount(cell, minlength=len(things) + 1)[1:]
        if inked.sum() <= 4:
            identity[place] = colour[place] = NOTHING
            continue
        first, *others = np.argsort(-inked)
        if inked[first] >= 40 and (not others or inked[first] >= 2 * inked[others[0]]):
            identity[place], colour[place] = things[first]
    return identity, colour


def _text(rng: random.Random) -> Labelled:
    """A picture of `corpora.text`; each token is labelled with the characters whose middle it holds."""
    scene = text.text(rng, "train")
    image = text.render(scene, rng)
    rows, columns = image.height // TOKEN, image.width // TOKEN
    characters = np.zeros((rows * columns, SLOTS), dtype=np.int64)
    colour = np.full(rows * columns, IGNORE)
    for number, line in enumerate(scene["lines"]):
        row = (scene["y"] + text.LINE * number) // TOKEN
        held: dict[int, list[int]] = {}
        for character, middle in zip(line, fonts.middles(line, scene["pixels"], scene["bold"]), strict=True):
            column = min(columns - 1, max(0, int(scene["x"] + middle) // TOKEN))
            held.setdefault(column, []).append(alphabet().get(character, NOTHING))
        for column, found in held.items():
            place = row * columns + column
            characters[place, : len(found)] = found[:SLOTS]
            colour[place] = colours()[scene["colour"]]
    return Labelled(image, np.full(rows * columns, IGNORE), colour, characters)


def _worn(image: Image.Image, rng: random.Random) -> Image.Image:
    """Now and then a little blur and grain."""
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    if rng.random() < 0.3:
        grain = Image.frombytes("L", image.size, rng.randbytes(image.width * image.height))
        image = Image.blend(image, Image.merge("RGB", [grain] * 3), rng.uniform(0.01, 0.05))
    return image
