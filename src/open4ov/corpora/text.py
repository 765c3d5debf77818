"""Pictures of written text: English words, numbers, Chinese words and sums.

Scene fields: kind "text", size, background, split, colour, lines (one or two strings), of ("word", "number", "chinese",
"sum"), pixels (em size), bold, x and y (top left of the first line, pixels).
"""

from __future__ import annotations

import random

from PIL import Image

from open4ov.corpora import fonts, icons, palette, words
from open4ov.corpora.item import Scene

KINDS = {"word": 38, "number": 24, "chinese": 20, "sum": 18}


def text(rng: random.Random, split: str, of: str | None = None) -> Scene:
    """One strip of text (96 to 160 by 32 pixels), or one or two lines on 96 by 96."""
    of = of or rng.choices(list(KINDS), list(KINDS.values()))[0]
    strip = of == "sum" or rng.random() < 0.6
    lines = [_line(rng, of) for _ in range(1 if strip or rng.random() < 0.5 else 2)]
    bold = rng.random() < 0.35
    fit = 156 if strip else 92
    pixels = rng.choice((18, 20, 22, 24, 26) if strip else (18, 20, 24, 28))
    inks = [fonts.mask(line, pixels, bold) for line in lines]
    while max(ink.width for ink in inks) > fit:
        pixels -= 2
        inks = [fonts.mask(line, pixels, bold) for line in lines]
    wide = max(ink.width for ink in inks)
    width = max(96, (wide + 4 + 31) // 32 * 32) if strip else 96
    height = 32 if strip else 96
    high = max(ink.height for ink in inks)
    spread = height - (high if len(lines) == 1 else high * 2 + 10)
    ground = palette.background(rng)
    return {
        "kind": "text",
        "size": [width, height],
        "background": ground,
        "split": split,
        "objects": [],
        "of": of,
        "lines": lines,
        "colour": rng.choice(palette.on(ground)),
        "pixels": pixels,
        "bold": bold,
        "x": rng.randint(1, max(1, width - wide - 1)),
        "y": rng.randint(1, max(1, spread - 1)),
    }


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """The picture, RGB."""
    width, height = scene["size"]
    image = Image.new("RGB", (width, height), palette.shade(palette.BACKGROUNDS[scene["background"]], rng, 3))
    colour, y = palette.shade(palette.COLOURS[scene["colour"]], rng), scene["y"]
    for line in scene["lines"]:
        ink = fonts.mask(line, scene["pixels"], scene["bold"])
        image.paste(colour, (scene["x"], y), ink)
        y += ink.height + 10
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
