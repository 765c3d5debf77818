"""The everyday symbols: 577 filled Material Design Icons with English and Chinese names.

`assets/corpora/mdi/symbols.json` was chosen by hand: everyday things, far apart as pictures, none automotive or
medical (those are kept for the verticals).
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable

from PIL import Image, ImageDraw, ImageFont

ASSETS: Traversable = resources.files("open4ov") / "assets" / "corpora"
_HELD_OUT_COUNT = 60


@dataclass(frozen=True)
class Symbol:
    """One icon: names in both languages, its name in Material Design Icons, its code point in the font."""

    name: str
    zh: str
    mdi: str
    codepoint: int


@cache
def symbols() -> dict[str, Symbol]:
    """All symbols by English name, in name order."""
    rows = json.loads((ASSETS / "mdi" / "symbols.json").read_text("utf-8"))
    return {row["name"]: Symbol(row["name"], row["zh"], row["mdi"], int(row["codepoint"], 16)) for row in rows}


@cache
def names() -> list[str]:
    """The names of all symbols."""
    return list(symbols())


@cache
def held_out() -> frozenset[str]:
    """The symbols that training never counts, locates or compares (it names them); tests do."""
    order = sorted(symbols(), key=lambda name: hashlib.sha256(f"held out/{name}".encode()).hexdigest())
    return frozenset(order[:_HELD_OUT_COUNT])


@cache
def held_out_names() -> list[str]:
    """The symbols that are held out, in order."""
    return sorted(held_out())


@cache
def trained_names() -> list[str]:
    """The symbols that are not held out."""
    return [name for name in names() if name not in held_out()]


@lru_cache(maxsize=64)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    file = io.BytesIO((ASSETS / "mdi" / "materialdesignicons.ttf").read_bytes())
    return ImageFont.truetype(file, pixels, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=40_000)
def mask(name: str, pixels: int) -> Image.Image:
    """The symbol as an 8-bit mask, cropped to its ink, drawn on an em square of `pixels` pixels."""
    canvas = Image.new("L", (pixels * 3 // 2, pixels * 3 // 2))
    middle = pixels * 3 // 4
    glyph = chr(symbols()[name].codepoint)
    ImageDraw.Draw(canvas).text((middle, middle), glyph, font=_font(pixels), fill=255, anchor="mm")
    return canvas.crop(canvas.getbbox())
