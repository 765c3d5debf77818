"""Evidence from pixels alone: which symbol of the library is drawn, and in which colour.

The lit part of a dark panel, or the strongly coloured part of a bright picture, is cut out and compared with every
symbol of the library by normalised cross-correlation (signs also turned a little). No annotation is read, and a
picture that resembles nothing, or two symbols about equally, gives no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
SIDE = 28  # of a template, pixels
TURNS = (-6, -3, 0, 3, 6)  # degrees
LEAST = 0.6  # correlation below which a picture resembles nothing
MARGIN = 0.02  # by which the best symbol must lead the next
STRETCH = 0.3  # taken off for a factor e between the widths over heights


@dataclass(frozen=True)
class Seen:
    """`symbol` is the library id, None when the pixels do not tell; `runner_up` is how near the next symbol came."""

    symbol: str | None
    colour: str | None
    score: float
    runner_up: float


@dataclass(frozen=True)
class Template:
    """A library drawing on a plain ground like that of its kind: dark under a tell-tale, grey under a sign.

    `turned`: whether pictures may show it a few degrees askew.
    """

    symbol: str
    image: Image.Image
    turned: bool


class PixelLibrary:
    """Templates of all symbols; `look` finds the one that a picture shows."""

    def __init__(self, templates: Sequence[Template]) -> None:
        self._symbols: list[str] = []
        rows: list[Floats] = []
        aspects: list[float] = []
        bright: list[bool] = []
        for template in templates:
            for turn in TURNS if template.turned else (0,):
                ground = template.image.getpixel((0, 0))
                turned = template.image.rotate(turn, Image.Resampling.BICUBIC, fillcolor=ground)
                cut = cut_out(turned)
                if cut is None:
                    raise ValueError(f"the template of {template.symbol} shows nothing that stands out")
                self._symbols.append(template.symbol)
                rows.append(cut.vector)
                aspects.append(cut.aspect)
                bright.append(not cut.panel)
        self._rows = np.stack(rows)
        self._aspects = np.array(aspects, dtype=np.float32)
        self._bright = np.array(bright)
        self._others = {symbol: np.array([other != symbol for other in self._symbols]) for symbol in set(self._symbols)}

    def look(self, image: Image.Image) -> Seen:
        cut = cut_out(image)
        if cut is None:
            return Seen(None, None, 0.0, 0.0)
        scores = self._rows @ cut.vector - STRETCH * np.abs(self._aspects - cut.aspect)
        scores = np.where(self._bright == (not cut.panel), scores, -1.0)
        best = int(np.argmax(scores))
        others = self._others[self._symbols[best]]
        score, runner_up = float(scores[best]), float(np.max(scores, where=others, initial=-1.0))
        told = score >= LEAST and score - runner_up >= MARGIN
        return Seen(self._symbols[best] if told else None, cut.colour, score, runner_up)


@dataclass(frozen=True)
class Cut:
    """The part that stands out: a [SIDE²] vector of mean 0 and length 1, log(width / height), colour, kind of
    ground."""

    vector: Floats
    aspect: float
    colour: str | None
    panel: bool


def is_panel(high: NDArray[np.uint8]) -> bool:
    """Whether most of a picture is dark, as an instrument panel is. `high`: each pixel's strongest channel."""
    return float(np.median(high)) < 90


def cut_out(image: Image.Image) -> Cut | None:
    """None when nothing stands out."""
    pixels = np.asarray(image.convert("RGB"))
    red, green, blue = (np.ascontiguousarray(pixels[:, :, channel]) for channel in range(3))
    brightest = np.maximum(np.maximum(red, green), blue)
    panel = is_panel(brightest)
    high, low = brightest.astype(np.float32), np.minimum(np.minimum(red, green), blue).astype(np.float32)
    if panel:
        top = float(np.percentile(high, 99))
        mask = high > max(0.5 * top, 70.0)
        grey = high
    else:
        mask = ((high - low) > 0.62 * np.maximum(high, 1)) & (high > 60)
        grey = (red.astype(np.float32) + green + blue) / 3
    rows, columns = np.flatnonzero(mask.sum(axis=1) > 1), np.flatnonzero(mask.sum(axis=0) > 1)
    if len(rows) < 8 or len(columns) < 4:
        return None
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    patch = Image.fromarray(grey).crop(box).resize((SIDE, SIDE), Image.Resampling.BOX)
    vector = np.asarray(patch, dtype=np.float32).ravel()
    vector = vector - vector.mean()
    norm = float(np.linalg.norm(vector))
    if norm == 0:
        return None
    aspect = float(np.log((box[2] - box[0]) / (box[3] - box[1])))
    return Cut(vector / norm, aspect, colour_of(pixels[mask]), panel)


HUES = (("red", 0.0), ("amber", 38.0), ("yellow", 58.0), ("green", 135.0), ("blue", 215.0), ("red", 360.0))


def colour_of(pixels: NDArray[np.uint8]) -> str | None:
    """The signal colour of pixels [N, 3] by their mean colour: a hue's name, `white` without a hue, None for grey
    tones."""
    red, green, blue = (float(value) for value in pixels.reshape(-1, 3).mean(axis=0))
    high, low = max(red, green, blue), min(red, green, blue)
    if high - low < 0.25 * high:
        return "white" if high > 90 else None
    if high == red:
        hue = 60 * ((green - blue) / (high - low)) % 360
    elif high == green:
        hue = 60 * ((blue - red) / (high - low)) + 120
    else:
        hue = 60 * ((red - green) / (high - low)) + 240
    return min(HUES, key=lambda entry: abs(entry[1] - hue))[0]
