"""Draws a symbol as it might be met: a tell-tale lit on a dark instrument panel, a road sign before sky or trees.

These are symbols and drawings, not photographs. A rendering is fixed by (symbol, split, index, seed). Splits never
share an image: each (size, left, top) of the symbol belongs to one split only (`cell`), besides separate seeds.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from open4ov.corpora.in_car.knowledge import Symbol
from open4ov.errors import UserError

ASSETS = Path(__file__).parents[2] / "assets" / "corpora" / "in_car"
FONT = ASSETS / "tell-tales.ttf"
SIGNS = ASSETS / "signs"

SIDE = 96
"""Side of a rendering, in pixels."""
SIZES = {"tell_tale": (66, 88), "road_sign": (68, 90)}
"""Smallest and largest box of a symbol, in pixels."""
WIDE = 80
"""Smallest box of a sign much wider than high, so that its drawing stays legible."""
OFF_CENTRE = 5
"""Most pixels that a symbol's box lies off the middle, along each side: pictures are framed, as a person would."""
CELLS = {"test": frozenset({0}), "val": frozenset({1}), "train": frozenset({2, 3, 4, 5, 6, 7})}
LIGHT = {
    "red": (240, 45, 40),
    "amber": (255, 170, 25),
    "green": (60, 205, 90),
    "blue": (70, 130, 255),
    "white": (228, 232, 238),
}
"""The colour of a lit tell-tale."""

Rgb = tuple[int, int, int]


def cell(size: int, left: int, top: int) -> int:
    """Which of the 8 cells a placement (pixels) falls in: coarse steps of 4 px, so that splits interleave in space."""
    return (size // 4 + 3 * (left // 4) + 5 * (top // 4)) % 8


def glyph(symbol: Symbol) -> Image.Image:
    """A tell-tale's shape, [192, 192] in mode L, drawn in the middle."""
    assert symbol.codepoint is not None, symbol.id
    return _glyph(symbol.codepoint)


@cache
def _glyph(codepoint: str) -> Image.Image:
    font = ImageFont.truetype(str(FONT), 184)
    mask = Image.new("L", (192, 192), 0)
    text = chr(int(codepoint, 16))
    left, top, right, bottom = font.getbbox(text)
    ImageDraw.Draw(mask).text((96 - (left + right) / 2, 96 - (top + bottom) / 2), text, font=font, fill=255)
    return mask


def sign(symbol: Symbol) -> Image.Image:
    """A road sign's drawing in mode RGBA, longest side 128 px, transparent around it."""
    return _sign(symbol.id)


@cache
def _sign(id: str) -> Image.Image:
    with Image.open(SIGNS / f"{id}.png") as image:
        return image.convert("RGBA")


def place(symbol: Symbol, split: str, index: int, seed: int) -> tuple[int, int, int, random.Random]:
    """(size, left, top) in pixels, and the generator that draws the rest of that rendering."""
    if split not in CELLS:
        raise UserError(f"split {split!r} is not one of {', '.join(sorted(CELLS))}")
    rng = random.Random(f"open4ov/in_car/{split}/{symbol.id}/{index}/{seed}")
    smallest, largest = SIZES[symbol.kind]
    if symbol.kind == "road_sign" and sign(symbol).width > 1.5 * sign(symbol).height:
        smallest = WIDE
    while True:
        size = rng.randint(smallest, largest)
        middle = (SIDE - size) // 2
        least, most = max(1, middle - OFF_CENTRE), min(SIDE - size - 1, middle + OFF_CENTRE)
        left, top = rng.randint(least, most), rng.randint(least, most)
        if cell(size, left, top) in CELLS[split]:
            return size, left, top, rng


def render(symbol: Symbol, split: str, index: int, seed: int) -> Image.Image:
    """One rendering of the symbol, RGB [96, 96]. Raises `UserError` for an unknown split."""
    size, left, top, rng = place(symbol, split, index, seed)
    draw = _tell_tale if symbol.kind == "tell_tale" else _road_sign
    return _camera(draw(symbol, size, left, top, rng), rng)


def _tell_tale(symbol: Symbol, size: int, left: int, top: int, rng: random.Random) -> Image.Image:
    panel = _panel(rng)
    mask = Image.new("L", panel.size, 0)
    mask.paste(glyph(symbol).resize((size, size), Image.Resampling.LANCZOS), (left, top))
    strength = rng.uniform(0.85, 1.0)
    light = _shade(LIGHT[symbol.colour], rng, 10, strength)
    glow = mask.filter(ImageFilter.GaussianBlur(rng.uniform(3, 5))).point([int(v * 0.3) for v in range(256)])
    panel.paste(light, (0, 0), glow)
    panel.paste(light, (0, 0), mask)
    return panel


def _panel(rng: random.Random) -> Image.Image:
    """A dark instrument panel: a gradient, and the arcs of up to two dim gauges."""
    dark = rng.randint(6, 34)
    tint = (rng.randint(-4, 4), rng.randint(-3, 5), rng.randint(-2, 10))
    near, far = (_clip(dark + t) for t in tint), (_clip(dark * rng.uniform(0.3, 1.6) + t) for t in tint)
    panel = _gradient(_rgb(near), _rgb(far), vertical=rng.random() < 0.7)
    pen = ImageDraw.Draw(panel)
    for _ in range(rng.randint(0, 2)):
        radius = rng.randint(34, 70)
        x, y = rng.randint(-20, SIDE + 20), rng.randint(-20, SIDE + 20)
        grey = dark + rng.randint(14, 34)
        first = rng.randint(0, 359)
        pen.arc((x - radius, y - radius, x + radius, y + radius), first, first + rng.randint(90, 270),
                fill=(grey, grey, grey + 6), width=rng.randint(1, 2))  # fmt: skip
    return panel


def _road_sign(symbol: Symbol, size: int, left: int, top: int, rng: random.Random) -> Image.Image:
    scenery = _scenery(rng)
    drawing = sign(symbol)
    fit = size / max(drawing.size)
    drawing = drawing.resize((round(drawing.width * fit), round(drawing.height * fit)), Image.Resampling.LANCZOS)
    x, y = left + (size - drawing.width) // 2, top + (size - drawing.height) // 2
    if rng.random() < 0.5:
        middle, half = left + size // 2, rng.randint(1, 3)
        grey = rng.randint(110, 180)
        pole = (middle - half, y + drawing.height // 2, middle + half, SIDE)
        ImageDraw.Draw(scenery).rectangle(pole, fill=(grey, grey, grey))
    board = Image.new("RGBA", scenery.size, (0, 0, 0, 0))
    board.paste(drawing, (x, y))
    centre = (left + size / 2, top + size / 2)
    board = board.rotate(rng.uniform(-7, 7), Image.Resampling.BICUBIC, center=centre)
    scenery.paste(board.convert("RGB"), (0, 0), board.getchannel("A"))
    return scenery


def _scenery(rng: random.Random) -> Image.Image:
    """What stands behind a sign: sky, overcast, trees or a wall, with soft blotches."""
    near, far = rng.choice(
        [
            ((205, 225, 245), (120, 170, 225)),
            ((225, 225, 222), (165, 172, 180)),
            ((120, 150, 95), (60, 95, 50)),
            ((175, 165, 150), (125, 115, 105)),
            ((235, 200, 160), (130, 140, 180)),
        ]
    )
    scenery = _gradient(_shade(far, rng, 14), _shade(near, rng, 14), vertical=True)
    blotch = Image.frombytes("L", (12, 12), rng.randbytes(144)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return Image.blend(scenery, ImageChops.multiply(scenery, Image.merge("RGB", [blotch] * 3)), rng.uniform(0, 0.3))


def _camera(image: Image.Image, rng: random.Random) -> Image.Image:
    """Slight blur, brightness, contrast and grain."""
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.7)))
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.9, 1.1))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.9, 1.1))
    grain = Image.frombytes("L", image.size, rng.randbytes(SIDE * SIDE))
    return Image.blend(image, Image.merge("RGB", [grain] * 3), rng.uniform(0.0, 0.04))


def _gradient(first: Rgb, last: Rgb, vertical: bool) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((SIDE, SIDE))
    if not vertical:
        ramp = ramp.transpose(Image.Transpose.ROTATE_90)
    return Image.composite(Image.new("RGB", ramp.size, last), Image.new("RGB", ramp.size, first), ramp)


def _shade(colour: Rgb, rng: random.Random, spread: int, strength: float = 1.0) -> Rgb:
    return _rgb(_clip(value * strength + rng.randint(-spread, spread)) for value in colour)


def _clip(value: float) -> int:
    return max(0, min(255, round(value)))


def _rgb(values: Iterable[int]) -> Rgb:
    red, green, blue = values
    return red, green, blue
