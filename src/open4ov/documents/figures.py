"""Where the figures of a page are: image objects that touch, and clusters of vector paths that draw something.

Rules, boxes behind text and the lines of tables are paths too. A cluster is a figure when it has bent strokes (curves
or slants), or when a caption stands by it; a picture is one when it is larger than an icon.
"""

from __future__ import annotations

from collections.abc import Sequence

from open4ov.documents.blocks import Box, Drawing, Line, RawPage, hull
from open4ov.documents.captions import REACH, caption_label
from open4ov.documents.layout import on_baselines

MIN_SIDE = 48.0
"""Points: what is smaller either way is an icon, a logo or a formula's image, unless it has a caption."""

MIN_CAPTIONED = 24.0

MIN_BENT = 2
_THIN = 3.0  # points: a rule
_LABEL = 40  # characters: a longer text beside a drawing is not its label
_NEAR = 9.0  # points between strokes of one drawing


def scanned(page: RawPage) -> bool:
    """Whether a page is a picture of one: hardly any text, or text of no meaning, and images that cover half of it."""
    letters = "".join(line.text for line in page.lines)
    bad = sum(letter == "\ufffd" or 0xE000 <= ord(letter) < 0xF900 for letter in letters)
    if len(letters) - bad >= 40 and bad < 0.3 * len(letters):
        return False
    covered = sum(drawing.box.area for drawing in page.drawings if drawing.image)
    return covered >= 0.5 * page.width * page.height or (bad > 0 and bad >= 0.3 * len(letters))


def find(page: RawPage) -> list[Box]:
    """The figures' rectangles, from top to bottom."""
    whole = Box(0, 0, page.width, page.height)
    lines = on_baselines(page.lines)
    captions = [line for line in lines if caption_label(line.text)]
    drawn = [drawing for drawing in page.drawings if not _behind(drawing, whole, lines)]
    images = _clusters([drawing for drawing in drawn if drawing.image], captions)
    pictures = [hull([drawing.box for drawing in group]) for group in images]
    paths = [
        drawing for drawing in drawn
        if not drawing.image and not any(drawing.box.share_in(box.grown(2.0)) > 0.5 for box in pictures)
    ]  # fmt: skip
    # a caption that stands by a picture does not make a figure of the box on its other side
    large = [box for box in pictures if min(box.width, box.height) >= MIN_CAPTIONED]
    free = [caption for caption in captions if not any(_beside(box, caption.box) for box in large)]
    found: list[Box] = []
    for group in _clusters(paths, captions):
        box = hull([drawing.box for drawing in group])
        within = [picture for picture in pictures if picture.share_in(box) > 0.6]
        if min(box.width, box.height) >= MIN_SIDE and _is_drawing(group, box, lines, free):
            found.append(_with_labels(hull([box, *within]), lines, whole, captions))
    for box in pictures:
        least = MIN_CAPTIONED if _captioned(box, captions) else MIN_SIDE
        if min(box.width, box.height) >= least:
            found.append(box)
    return sorted(_apart(found), key=lambda box: (box.top, box.left))


def _behind(drawing: Drawing, whole: Box, lines: Sequence[Line]) -> bool:
    """Rules, page-wide grounds, and boxes that lie behind running text."""
    box = drawing.box
    if drawing.image:
        if box.area < 0.9 * whole.area:
            return False
        return _text_share(box, lines) > 0.02  # a picture over the whole page is one, unless text is printed on it
    if min(box.width, box.height) < _THIN and max(box.width, box.height) > 0.5 * whole.width:
        return True
    if box.area > 0.6 * whole.area:
        return True
    return not drawing.bent and _long(box, lines) >= 1


def _text_share(box: Box, lines: Sequence[Line]) -> float:
    inside = sum(line.box.area for line in lines if line.box.share_in(box) > 0.5)
    return inside / box.area if box.area > 0 else 0.0


def _long(box: Box, lines: Sequence[Line]) -> int:
    """How many lines of running text lie in a rectangle."""
    return sum(len(line.text) > _LABEL and line.box.share_in(box) > 0.5 for line in lines)


def _clusters(drawings: Sequence[Drawing], captions: Sequence[Line]) -> list[list[Drawing]]:
    """Groups of drawings that touch when each is grown a little; no group reaches across a caption."""
    order = sorted(drawings, key=lambda drawing: drawing.box.top)
    groups: list[tuple[Box, list[Drawing]]] = []
    for drawing in order:
        reach = 1.5 if drawing.image else _NEAR
        near = [
            at
            for at, (box, _) in enumerate(groups)
            if box.grown(reach).touches(drawing.box) and not _parted(box, drawing.box, captions)
        ]
        merged = [drawing]
        box = drawing.box
        for at in reversed(near):
            other, members = groups.pop(at)
            merged, box = [*members, *merged], hull((other, box))
        groups.append((box, merged))
    while (pair := _touching(groups, captions)) is not None:
        (a, first), (b, second) = groups[pair[0]], groups.pop(pair[1])
        groups[pair[0]] = hull((a, b)), [*first, *second]
    return [members for _, members in groups]


def _touching(groups: Sequence[tuple[Box, list[Drawing]]], captions: Sequence[Line]) -> tuple[int, int] | None:
    if len(groups) > 400:  # a page of scattered marks; what touches was joined on the way already
        return None
    for i, (box, _) in enumerate(groups):
        for j in range(i + 1, len(groups)):
            other = groups[j][0]
            if box.grown(1.0).touches(other) and not _parted(box, other, captions):
                return i, j
    return None


def _parted(a: Box, b: Box, captions: Sequence[Line]) -> bool:
    """Whether a caption lies between two rectangles."""
    upper, lower = (a, b) if a.top <= b.top else (b, a)
    return any(
        upper.bottom - 2 <= line.box.top and line.box.bottom <= lower.top + 2 and line.box.across(hull((a, b))) > 0
        for line in captions
    )


def _is_drawing(group: Sequence[Drawing], box: Box, lines: Sequence[Line], captions: Sequence[Line]) -> bool:
    captioned = _captioned(box, captions)
    if _long(box, lines) > (3 if captioned else 1) or (not captioned and _text_share(box, lines) > 0.2):
        return False
    # the shadow of a box with text has round corners and shades, but draws nothing
    framed = any(line.box.share_in(box) > 0.8 for line in lines)
    bent = [drawing for drawing in group if drawing.bent]
    if framed:
        bent = [drawing for drawing in bent if not (drawing.filled and drawing.box.width > 0.8 * box.width)]
    return captioned or len(bent) >= MIN_BENT


def _captioned(box: Box, captions: Sequence[Line]) -> bool:
    return any(_beside(box, line.box) and not caption_is_table(line) for line in captions)


def caption_is_table(line: Line) -> bool:
    return (caption_label(line.text) or "").startswith(("table", "表"))


def _beside(box: Box, caption: Box) -> bool:
    gap = max(caption.top - box.bottom, box.top - caption.bottom)
    return -12 <= gap <= REACH and box.across(caption) > 0


def _with_labels(box: Box, lines: Sequence[Line], whole: Box, captions: Sequence[Line]) -> Box:
    """The rectangle with the short texts that touch it: the names of axes and parts."""
    for _ in range(2):
        near = [
            line.box
            for line in lines
            if line not in captions and len(line.text) <= _LABEL // 2
            and line.box.share_in(box) < 1 and _adjoins(line.box, box)
        ]  # fmt: skip
        if not near:
            break
        box = hull([box, *near])
    return box.grown(2.0).common(whole)


def _adjoins(label: Box, box: Box) -> bool:
    """Cut by the edge, or within 4 points of it and no longer than the drawing."""
    return label.share_in(box) > 0 or (box.grown(4.0).touches(label) and label.width < 0.5 * box.width)


def _apart(boxes: Sequence[Box]) -> list[Box]:
    """Without those that lie in another."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: -box.area):
        if not any(box.share_in(other) > 0.8 for other in kept):
            kept.append(box)
    return kept
