"""What a page is made of. Lengths are points (1/72 inch) from the top left corner of the page as it is displayed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field

from open4ov.errors import UserError

Kind = Literal["heading", "text", "caption", "figure", "table", "equation", "margin"]


class DocumentError(UserError):
    """A document, or a page of one, that cannot be used; the message says why."""


class Box(NamedTuple):
    """A rectangle, left < right and top < bottom."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> float:
        return max(0.0, self.width) * max(0.0, self.height)

    def grown(self, by: float) -> Box:
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)

    def common(self, other: Box) -> Box:
        """The part that both cover; its area is 0 when there is none."""
        return Box(
            max(self.left, other.left), max(self.top, other.top),
            min(self.right, other.right), min(self.bottom, other.bottom),
        )  # fmt: skip

    def touches(self, other: Box) -> bool:
        shared = self.common(other)
        return shared.width >= 0 and shared.height >= 0

    def share_in(self, other: Box) -> float:
        """The share of this rectangle that lies in the other; a line without area counts by its centre."""
        if self.area > 0:
            shared = self.common(other)
            return shared.area / self.area if shared.width > 0 and shared.height > 0 else 0.0
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        return float(other.left <= x <= other.right and other.top <= y <= other.bottom)

    def across(self, other: Box) -> float:
        """How far the two overlap from left to right; negative: the gap between them."""
        return min(self.right, other.right) - max(self.left, other.left)


def hull(boxes: Iterable[Box]) -> Box:
    """The smallest rectangle around one or more."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return Box(min(lefts), min(tops), max(rights), max(bottoms))


@dataclass(frozen=True)
class Line:
    """A run of text on one baseline, within one column. `size`: the height of its letters' boxes, points."""

    box: Box
    text: str
    size: float
    bold: bool = False


@dataclass(frozen=True)
class Drawing:
    """An image object, or a vector path. `bent`: it has curves or slanted strokes, which tables and rules have not.

    `filled`: painted without a stroke, as grounds and shadows are.
    """

    box: Box
    image: bool
    bent: bool = False
    filled: bool = False


@dataclass(frozen=True)
class RawPage:
    """What a PDF says of a page, or what OCR read on it, before any layout. `number` counts from 1."""

    number: int
    width: float
    height: float
    lines: Sequence[Line]
    drawings: Sequence[Drawing]
    scanned: bool = False

    @property
    def body(self) -> float:
        """The font size that most characters of the page have; 12 for a page without text."""
        sizes = [round(line.size * 2) / 2 for line in self.lines for _ in line.text]
        return statistics.mode(sizes) if sizes else 12.0


class Block(BaseModel):
    """A piece of a page in reading order. `image`: a figure's digest; `label`: `figure 3.1` of figures and captions."""

    kind: Kind
    page: int
    box: tuple[float, float, float, float]
    text: str = ""
    label: str | None = None
    image: str | None = None
    caption: str = ""
    caption_box: tuple[float, float, float, float] | None = None

    @property
    def place(self) -> Box:
        return Box(*self.box)


class Page(BaseModel):
    """A page that was read: its blocks in reading order, its picture's digest if it was stored, and what went wrong."""

    number: int
    width: float
    height: float
    blocks: list[Block] = Field(default_factory=list[Block])
    image: str | None = None
    scanned: bool = False
    fault: str | None = None
