"""One page, from what the PDF says of it to blocks in reading order with their figures cut out."""

from __future__ import annotations

from collections.abc import Sequence

from open4ov.documents import captions, figures, layout, ocr
from open4ov.documents.blocks import Block, Box, DocumentError, Line, Page, RawPage
from open4ov.documents.pdf import OpenPage
from open4ov.store import ImageStore

_RUNNING = 25  # characters; Chinese lines are short


def read(raw: RawPage, opened: OpenPage, store: ImageStore, read_scans: bool) -> Page:
    """The page. Its own picture is stored when it has a figure. A scanned page is read by OCR, or says why not."""
    page = Page(number=raw.number, width=raw.width, height=raw.height)
    if figures.scanned(raw):
        page.scanned = True
        if not read_scans:
            page.fault = "is scanned, and --no-ocr leaves such pages unread"
            return page
        try:
            seen = ocr.read(raw, opened.picture())
            # a picture that fills the page has words too, but hardly lines of running text
            raw = seen if sum(len(line.text) >= _RUNNING for line in seen.lines) >= 3 else raw
            page.scanned = raw is seen
        except DocumentError as error:
            page.fault = str(error)
            return page
    boxes = figures.find(raw)
    lines = [line for line in raw.lines if not _inside(line, boxes)]
    page.blocks = layout.blocks(raw, lines, boxes)
    captions.attach(page.blocks)
    for block in page.blocks:
        if block.kind == "figure":
            block.image = store.put(opened.crop(block.place))
            block.text = layout.join([line.text for line in _within(raw.lines, block)])
    if any(block.kind == "figure" for block in page.blocks):
        page.image = store.put(opened.picture())
    return page


def _inside(line: Line, boxes: Sequence[Box]) -> bool:
    return captions.caption_label(line.text) is None and any(line.box.share_in(box) > 0.6 for box in boxes)


def _within(lines: Sequence[Line], figure: Block) -> list[Line]:
    return [line for line in lines if _inside(line, [figure.place])]
