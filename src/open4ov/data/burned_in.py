"""Text burned into the pixels: a reader finds it, and boxes whose text holds personal data are painted over.

A reader is a function that the recipe names: an RGB image -> a list of (box, text), a box being (left, top, right,
bottom) in pixels. `rapid` is one, with models that ship inside a package (the extra `ocr`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
from PIL import Image, ImageDraw

from open4ov.data import personal
from open4ov.errors import UserError

Box = tuple[float, float, float, float]
Reader = Callable[[Image.Image], Sequence[tuple[Box, str]]]

MARGIN = 2
"""Pixels painted over around a box."""


def masked(
    image: Image.Image, reader: Reader, kinds: Mapping[personal.Kind, personal.Action]
) -> tuple[Image.Image, Counter[str]]:
    """The image with its personal boxes painted in their mean colour (the same image when there are none), and counts.

    A number broken over two boxes is not found. Raises UserError when the reader gives anything but boxes and texts.
    """
    counts: Counter[str] = Counter()
    doomed: list[Box] = []
    for box, text in _checked(reader(image)):
        _, here = personal.mask(text, kinds)
        if here:
            counts += here
            doomed.append(box)
    if not doomed:
        return image, counts
    painted = image.copy()
    draw = ImageDraw.Draw(painted)
    for left, top, right, bottom in doomed:
        area = (
            max(0, int(left) - MARGIN), max(0, int(top) - MARGIN),
            min(image.width, int(right) + 1 + MARGIN), min(image.height, int(bottom) + 1 + MARGIN),
        )  # fmt: skip
        if area[0] < area[2] and area[1] < area[3]:
            colour = np.asarray(image.crop(area)).reshape(-1, 3).mean(axis=0).astype(int).tolist()
            draw.rectangle((area[0], area[1], area[2] - 1, area[3] - 1), fill=tuple(cast("list[int]", colour)))
    return painted, counts


def rapid(image: Image.Image) -> list[tuple[Box, str]]:
    """Reads English and Chinese with the `rapidocr` package (pip install 'open4ov[ocr]'); needs no network."""
    result: Any = _engine()(np.asarray(image)[:, :, ::-1])
    if result.boxes is None:
        return []
    found: list[tuple[Box, str]] = []
    for corners, text in zip(result.boxes, result.txts, strict=True):
        points = np.asarray(corners)
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        found.append(((left, top, right, bottom), str(text)))
    return found


@cache
def _engine() -> Any:
    try:
        from rapidocr import RapidOCR  # pyright: ignore
    except ImportError as error:
        raise UserError(
            f"data.hygiene.burned_in: the reader needs a package that is missing ({error.name}); "
            "pip install 'open4ov[ocr]', or name a reader of your own"
        ) from None
    return RapidOCR(params={"Global.log_level": "warning"})  # pyright: ignore


def _checked(found: object) -> list[tuple[Box, str]]:
    try:
        return [
            ((float(box[0]), float(box[1]), float(box[2]), float(box[3])), _text(text))
            for box, text in cast("Sequence[tuple[Box, str]]", found)
        ]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise UserError(
            f"data.hygiene.burned_in: the reader gave no list of ((left, top, right, bottom), text): {error}"
        ) from None


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    return text
