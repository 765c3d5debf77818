"""Scanned pages: the words by RapidOCR, whose models ship in its wheel, and figures as ink that is no text."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from open4ov.documents.blocks import Box, DocumentError, Drawing, Line, RawPage

MIN_SCORE = 0.6
"""Confidence below which a line is not taken for text."""

CELL = 6.0  # points: the grid on which ink is looked for
_INK = 0.02  # share of a cell's pixels that are darker or more coloured than paper


@cache
def _reader() -> Any:
    try:
        import logging

        from rapidocr import RapidOCR
    except ImportError:
        raise DocumentError("is scanned; reading it needs RapidOCR: pip install 'open4ov[documents]'") from None
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    return RapidOCR(params={"Global.log_level": "error"})


def read(page: RawPage, picture: Image.Image) -> RawPage:
    """The page with the lines that OCR sees and what else is drawn on it. Raises DocumentError without RapidOCR."""
    pixels = np.asarray(picture)
    scale = picture.width / page.width
    seen = _reader()(pixels[:, :, ::-1])
    lines: list[Line] = []
    boxes = seen.boxes if seen.boxes is not None else []
    for corners, text, score in zip(boxes, seen.txts or (), seen.scores or (), strict=True):
        xs, ys = corners[:, 0] / scale, corners[:, 1] / scale
        if score >= MIN_SCORE and text.strip():
            box = Box(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))
            lines.append(Line(box, text.strip(), box.height))
    drawings = [Drawing(box, image=True) for box in _ink(pixels, lines, page)]
    return RawPage(page.number, page.width, page.height, lines, drawings, scanned=True)


def _ink(pixels: np.ndarray, lines: list[Line], page: RawPage) -> list[Box]:
    """Rectangles around connected ink that is no text, on a grid of `CELL` points. pixels: uint8 [H, W, 3]."""
    step = max(1, round(CELL * pixels.shape[1] / page.width))
    paper = np.percentile(pixels[::4, ::4].reshape(-1, 3), 90, axis=0)
    off = np.abs(pixels.astype(np.int16) - paper.astype(np.int16)).max(axis=2) > 40
    rows, columns = off.shape[0] // step, off.shape[1] // step
    grid = off[: rows * step, : columns * step].reshape(rows, step, columns, step).mean(axis=(1, 3)) > _INK
    points = page.width / pixels.shape[1] * step
    for line in lines:  # the text itself is taken out, unless a drawing goes on around it
        box = line.box.grown(2.0)
        top, bottom = max(0, int(box.top / points)), int(box.bottom / points) + 1
        left, right = max(0, int(box.left / points)), int(box.right / points) + 1
        grid[top:bottom, left:right] = False
    return [
        Box(left * points, top * points, right * points, bottom * points)
        for left, top, right, bottom in _islands(grid)
        if (right - left) * points >= 36 and (bottom - top) * points >= 36
    ]


def _islands(grid: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Bounds (left, top, right, bottom; the last two outside) of cells that touch with at most one empty between."""
    todo = {(int(y), int(x)) for y, x in np.argwhere(grid)}
    found: list[tuple[int, int, int, int]] = []
    while todo:
        stack = [todo.pop()]
        ys, xs = [stack[0][0]], [stack[0][1]]
        while stack:
            y, x = stack.pop()
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    near = (y + dy, x + dx)
                    if near in todo:
                        todo.remove(near)
                        stack.append(near)
                        ys.append(near[0])
                        xs.append(near[1])
        found.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return sorted(found)
