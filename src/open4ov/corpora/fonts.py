"""Written text as masks: Noto Sans CJK SC (a subset: ASCII and about 1,800 Chinese characters)."""

from __future__ import annotations

import io
from functools import cache, lru_cache
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from open4ov.corpora.icons import ASSETS

FONT = ASSETS / "font" / "NotoSansCJKsc-subset.otf"


@cache
def characters() -> frozenset[str]:
    """The characters that the font can draw."""
    return frozenset((ASSETS / "font" / "characters.txt").read_text("utf-8").rstrip("\n"))


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    file = io.BytesIO(FONT.read_bytes())
    return ImageFont.truetype(file, pixels, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=8192)
def mask(text: str, pixels: int, bold: bool = False) -> Image.Image:
    """The text as an 8-bit mask, cropped to its ink; `pixels` is the size of the em square."""
    canvas, _ = _drawn(text, pixels, bold)
    return canvas.crop(canvas.getbbox())


def middles(text: str, pixels: int, bold: bool = False) -> list[float]:
    """Where the middle of each character lies in `mask(text, pixels, bold)`, in pixels from its left edge."""
    canvas, origin = _drawn(text, pixels, bold)
    box = canvas.getbbox()
    assert box is not None, text
    font = _font(pixels)
    ends = [font.getlength(text[:end]) for end in range(len(text) + 1)]
    return [origin - box[0] + (start + end) / 2 for start, end in pairwise(ends)]


def _drawn(text: str, pixels: int, bold: bool) -> tuple[Image.Image, float]:
    """The text on a canvas with room around it, and the x of the pen's start there."""
    stroke = 1 if bold else 0
    font = _font(pixels)
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    canvas = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(canvas).text((2 - left, 2 - top), text, font=font, fill=255, stroke_width=stroke)
    return canvas, 2 - left
