"""The symbol library of the catalog: what the pixel and embedding judges compare a picture with.

Templates are the bare drawings; references are renderings with a seed of their own, so no picture of a run is its own
reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

from open4ov.corpora import in_car
from open4ov.corpora.in_car.render import LIGHT, glyph, sign
from open4ov.mllm.pixels import PixelLibrary, Template
from open4ov.mllm.retrieval import ImageIndex

REFERENCES = 3  # renderings of each symbol
SEED = 715_827_881  # of the references; no recipe should use it


@dataclass(frozen=True)
class Library:
    """Every symbol of the vertical: its scene by id, its pixels, its place in the index of likenesses."""

    scenes: dict[str, dict[str, Any]]
    pixels: PixelLibrary
    index: ImageIndex


@cache
def library() -> Library:
    """Drawn once a process, a few seconds."""
    symbols = in_car.load()
    return Library(
        {symbol.id: in_car.scene(symbol, "train") for symbol in symbols},
        PixelLibrary([Template(symbol.id, _template(symbol), symbol.kind == "road_sign") for symbol in symbols]),
        ImageIndex(
            [(symbol.id, in_car.render(symbol, "train", i, SEED)) for symbol in symbols for i in range(REFERENCES)]
        ),
    )


def _template(symbol: in_car.Symbol) -> Image.Image:
    """A tell-tale lit on black, a sign on grey."""
    if symbol.kind == "tell_tale":
        ground = Image.new("RGB", (104, 104), (15, 15, 18))
        ground.paste(LIGHT[symbol.colour], (4, 4), glyph(symbol).resize((96, 96), Image.Resampling.LANCZOS))
        return ground
    drawing = sign(symbol).copy()
    drawing.thumbnail((96, 96), Image.Resampling.LANCZOS)
    ground = Image.new("RGB", (drawing.width + 24, drawing.height + 24), (150, 150, 150))
    ground.paste(drawing.convert("RGB"), (12, 12), drawing.getchannel("A"))
    return ground
