"""Small bar and line charts, drawn with Pillow.

Scene fields: kind "chart", size, background, split, of ("bar", "line"), labels (A to E), values (1 to 9), colours (one
a bar, or one for a line), numbers (whether each value is written above its mark).
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from open4ov.corpora import fonts, palette
from open4ov.corpora.item import Scene

LABELS = "ABCDE"
_LEFT, _TOP, _BOTTOM = 10, 12, 14


def chart(rng: random.Random, split: str) -> Scene:
    """Three to five values; bars may share one colour."""
    count = rng.randint(3, 5)
    ground = rng.choice(list(palette.LIGHT))
    of = rng.choice(("bar", "bar", "bar", "line"))
    colours = [rng.choice(palette.on(ground))]
    if of == "bar":
        colours = colours * count if rng.random() < 0.4 else [rng.choice(palette.on(ground)) for _ in range(count)]
    return {
        "kind": "chart",
        "size": [rng.choice((96, 128)), 96],
        "background": ground,
        "split": split,
        "objects": [],
        "of": of,
        "labels": list(LABELS[:count]),
        "values": [rng.randint(1, 9) for _ in range(count)],
        "colours": colours,
        "numbers": rng.random() < 0.5,
    }


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """The picture, RGB: a faint line for each unit, the axis numbered at 3, 6 and 9."""
    width, height = scene["size"]
    image = Image.new("RGB", (width, height), palette.shade(palette.BACKGROUNDS[scene["background"]], rng, 3))
    draw = ImageDraw.Draw(image)
    floor, unit = height - _BOTTOM, (height - _TOP - _BOTTOM) / 9
    for value in range(10):
        y = round(floor - value * unit)
        strong = value % 3 == 0
        draw.line((_LEFT, y, width - 2, y), fill=(150, 150, 150) if strong else (205, 205, 205))
        if strong and value:
            _write(image, str(value), 10, _LEFT // 2, y)
    step = (width - _LEFT - 4) / len(scene["values"])
    points = [(round(_LEFT + 2 + step * (i + 0.5)), round(floor - v * unit)) for i, v in enumerate(scene["values"])]
    if scene["of"] == "line":
        draw.line(points, fill=palette.COLOURS[scene["colours"][0]], width=2)
    for index, (x, y) in enumerate(points):
        colour = palette.shade(palette.COLOURS[scene["colours"][index % len(scene["colours"])]], rng)
        if scene["of"] == "bar":
            half = int(step * 0.34)
            draw.rectangle((x - half, y, x + half, floor), fill=colour)
        else:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        _write(image, scene["labels"][index], 12, x, height - _BOTTOM // 2 + 1)
        if scene["numbers"]:
            _write(image, str(scene["values"][index]), 11, x, y - 7)
    return image


def _write(image: Image.Image, text: str, pixels: int, x: int, y: int) -> None:
    ink = fonts.mask(text, pixels)
    image.paste((20, 20, 20), (x - ink.width // 2, y - ink.height // 2), ink)
