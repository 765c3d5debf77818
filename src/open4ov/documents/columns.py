"""Reading order: bands from top to bottom, columns from left to right within a band.

A gutter is a strip that few things cross and that has lines on both sides at the same height. What crosses it (a title,
a wide figure) parts the page into bands; each band is read column by column, and each column by the same rule again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from open4ov.documents.blocks import Box, hull

T = TypeVar("T")

MIN_LINES = 3
"""Things on each side of a gutter, below which a gap is only a gap (options side by side, a table's row)."""

_FILLED = 0.4  # of a column's height is text or pictures; options of questions below each other leave more white
_TALL = 60.0  # points: a figure is a column on its own
MIN_GUTTER = 6.0  # points
_MIN_WIDTH = 0.15  # of the region: what is narrower is a list's numbers, not a column


def reading_order(items: Sequence[T], box: Callable[[T], Box], depth: int = 0) -> list[T]:
    """The items as a reader meets them."""
    if len(items) < 2:
        return list(items)
    gutter = _gutter([box(item) for item in items]) if depth < 4 else None
    if gutter is None:
        return _rows(items, box)
    crossing = [item for item in items if box(item).left < gutter < box(item).right]
    aside = [item for item in items if not box(item).left < gutter < box(item).right]
    edges = sorted(crossing, key=lambda item: box(item).top)
    ordered: list[T] = []
    for edge in [*edges, None]:
        middle = (box(edge).top + box(edge).bottom) / 2 if edge is not None else float("inf")
        band = [item for item in aside if (box(item).top + box(item).bottom) / 2 <= middle]
        aside = [item for item in aside if (box(item).top + box(item).bottom) / 2 > middle]
        left = [item for item in band if box(item).right <= gutter]
        right = [item for item in band if box(item).right > gutter]
        if _columns([box(item) for item in left], [box(item) for item in right]):
            ordered += reading_order(left, box, depth + 1) + reading_order(right, box, depth + 1)
        else:
            ordered += _rows(band, box)
        if edge is not None:
            ordered.append(edge)
    return ordered


def _rows(items: Sequence[T], box: Callable[[T], Box]) -> list[T]:
    """From top to bottom; what stands on one row, from left to right."""
    ordered: list[T] = []
    row: list[T] = []
    for item in sorted(items, key=lambda item: (box(item).top, box(item).left)):
        if row:
            first = box(row[0])
            shared = min(first.bottom, box(item).bottom) - max(first.top, box(item).top)
            if shared < 0.5 * min(first.height, box(item).height):
                ordered += sorted(row, key=lambda other: box(other).left)
                row = []
        row.append(item)
    return ordered + sorted(row, key=lambda other: box(other).left)


def _gutter(boxes: Sequence[Box]) -> float | None:
    """The middle of the best gutter: the one that the least height of things crosses, then the widest."""
    region = hull(boxes)
    best: tuple[float, float] | None = None
    found: float | None = None
    for start in sorted({box.right for box in boxes}):
        following = [box.left for box in boxes if box.left >= start]
        if not following:
            continue
        end = min(following)
        if end - start < MIN_GUTTER:
            continue
        x = (start + end) / 2
        left = [box for box in boxes if box.right <= x]
        right = [box for box in boxes if box.left >= x]
        if not _columns(left, right, region.width):
            continue
        crossing = sum(box.height for box in boxes if box.left < x < box.right)
        # one column that fills the page above two short ones has a gutter too: it must matter to more than it cuts
        if crossing > 1.5 * sum(box.height for box in [*left, *right]):
            continue
        if best is None or (crossing, start - end) < best:
            best, found = (crossing, start - end), x
    return found


def _columns(left: Sequence[Box], right: Sequence[Box], width: float = 0.0) -> bool:
    """Whether two groups are columns beside each other: several lines, or much height, on both sides."""
    if not left or not right:
        return False
    sides = hull(left), hull(right)
    if min(sides[0].bottom, sides[1].bottom) <= max(sides[0].top, sides[1].top):
        return False
    return all(_filled(group) for group in (left, right)) and all(side.width >= _MIN_WIDTH * width for side in sides)


def _filled(boxes: Sequence[Box]) -> bool:
    """Whether things stand one below the other with little between: several rows, or something tall."""
    rows: list[tuple[float, float]] = []
    for box in sorted(boxes, key=lambda box: box.top):
        if rows and box.top < rows[-1][1] - 0.5 * box.height:
            rows[-1] = rows[-1][0], max(rows[-1][1], box.bottom)
        else:
            rows.append((box.top, box.bottom))
    covered = sum(bottom - top for top, bottom in rows)
    if covered < _FILLED * hull(boxes).height:
        return False
    return len(rows) >= MIN_LINES or any(box.height >= _TALL for box in boxes)
