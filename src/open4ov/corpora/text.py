"""Pictures of written text: English words, numbers, Chinese words and sums.

Scene fields: kind "text", size, background, split, colour, lines (one or two strings), of ("word", "number", "chinese",
"sum"), pixels (em size), bold, x (left) and y (middle of the first line; each line has 32 pixels), in pixels.
"""

from __future__ import annotations

import random

from PIL import Image

from open4ov.corpora import fonts, icons, palette, words
from open4ov.corpora.item import Scene

KINDS = {"word": 38, "number": 24, "chinese": 20, "sum": 18}


LINE = 32
"""Height of a line, in pixels: one row of visual tokens."""


def text(rng: random.Random, split: str, of: str | None = None) -> Scene:
    """One strip of text (96 to 160 by 32 pixels), or one or two lines on 96 by 96."""
    of = of or rng.choices(list(KINDS), list(KINDS.values()))[0]
    strip = of == "sum" or rng.random() < 0.6
    lines = [_line(rng, of) for _ in range(1 if strip or rng.random() < 0.5 else 2)]
    bold = rng.random() < 0.35
    pixels = 32 if of == "chinese" else 28  # a Chinese character is as wide as a visual token, a digit half of it
    while (wide := max(fonts.mask(line, pixels, bold).width for line in lines)) > (156 if strip else 92):
        pixels -= 2
    width = max(96, (wide + 4 + 31) // 32 * 32) if strip else 96
    first = 0 if strip else rng.randint(0, 3 - len(lines))
    ground = palette.background(rng)
    return {
        "kind": "text",
        "size": [width, LINE if strip else 96],
        "background": ground,
        "split": split,
        "objects": [],
        "of": of,
        "lines": lines,
        "colour": rng.choice(palette.on(ground)),
        "pixels": pixels,
        "bold": bold,
        "x": rng.randint(1, 3),
        "y": LINE * first + LINE // 2,
    }


def tops(scene: Scene) -> list[int]:
    """Where each line's ink begins, in pixels from the top."""
    inks = (fonts.mask(line, scene["pixels"], scene["bold"]) for line in scene["lines"])
    return [scene["y"] + LINE * place - ink.height // 2 for place, ink in enumerate(inks)]


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """The picture, RGB."""
    width, height = scene["size"]
    image = Image.new("RGB", (width, height), palette.shade(palette.BACKGROUNDS[scene["background"]], rng, 3))
    colour = palette.shade(palette.COLOURS[scene["colour"]], rng)
    for line, top in zip(scene["lines"], tops(scene), strict=True):
        image.paste(colour, (scene["x"], top), fonts.mask(line, scene["pixels"], scene["bold"]))
    return image


def evaluate(sum_text: str) -> int:
    """The value of a sum as `text` draws it: two numbers joined by +, - or ×."""
    for sign in "+-×":
        if sign in sum_text:
            left, right = (int(part) for part in sum_text.split(sign))
            return left + right if sign == "+" else left - right if sign == "-" else left * right
    raise ValueError(f"not a sum: {sum_text!r}")


def _line(rng: random.Random, of: str) -> str:
    if of == "number":
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 6)))
    if of == "word":
        word = rng.choice(words.ENGLISH)
        return rng.choice((word, word.upper(), word.upper(), word.capitalize()))
    if of == "chinese":
        if rng.random() < 0.4:
            return rng.choice(list(icons.symbols().values())).zh[:4]
        return rng.choice(words.CHINESE)
    sign = rng.choice("++-×")
    if sign == "×":
        return f"{rng.randint(2, 9)}×{rng.randint(2, 9)}"
    left, right = (
        (rng.randint(1, 9), rng.randint(1, 9)) if rng.random() < 0.3 else (rng.randint(10, 99), rng.randint(1, 99))
    )
    return f"{left}+{right}" if sign == "+" else f"{max(left, right)}-{min(left, right)}"
