"""Image-question-answer candidates of a document: its figures with caption and text, and the questions it prints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from open4ov.documents import exam
from open4ov.documents.blocks import Block, Page
from open4ov.documents.captions import mentions
from open4ov.documents.extract import pages
from open4ov.documents.layout import running_title

REPEATED = 3
"""Pages on which the same picture, or the same words in the margin, must stand to be the document's furniture."""

MAX_TEXT = 1500  # characters of referring text that go with a figure
_MAX_NEAR = 2


@dataclass
class Figure:
    """A figure, and the paragraphs that refer to it (or, where none does, those around it)."""

    block: Block
    page_image: str | None
    text: list[str] = field(default_factory=list[str])
    referred: bool = False


@dataclass
class Found:
    """What a document holds. `left_out`: pages that could not be read, with the reason."""

    pages: int = 0
    scanned: int = 0
    figures: list[Figure] = field(default_factory=list[Figure])
    questions: list[exam.Printed] = field(default_factory=list[exam.Printed])
    page_images: dict[int, str] = field(default_factory=dict[int, str])
    captions: int = 0
    decorations: int = 0
    left_out: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


def find(folder: Path) -> Found:
    """Goes over a document's pages twice: for its figures and furniture, then for what is said about them."""
    found = Found()
    pictures, titles = Counter[str](), Counter[str]()
    for page in pages(folder):
        found.pages += 1
        found.scanned += page.scanned
        if page.fault is not None:
            found.left_out.append((page.number, page.fault))
        if page.image:
            found.page_images[page.number] = page.image
        for block in page.blocks:
            found.captions += block.kind == "caption"
            if block.kind == "figure" and block.image:
                pictures[block.image] += 1
            elif title := running_title(block, page.height):
                titles[title] += 1
    furniture = {sha for sha, count in pictures.items() if count >= REPEATED}
    for page in pages(folder):
        for block in page.blocks:
            if block.kind != "figure" or not block.image:
                continue
            if block.image in furniture and not block.caption:
                found.decorations += 1
            else:
                found.figures.append(Figure(block, page.image))
    repeated = {title for title, count in titles.items() if count >= REPEATED}
    _refer(found, folder, repeated)
    decorations = furniture - {figure.block.image for figure in found.figures}
    found.questions = list(exam.printed(_read(folder, repeated, decorations)))
    return found


def _read(folder: Path, titles: set[str], decorations: set[str]) -> Iterator[Block]:
    """The document's blocks in reading order without its furniture."""
    for page in pages(folder):
        for block in _body(page, titles):
            if not (block.kind == "figure" and block.image in decorations):
                yield block


def _body(page: Page, titles: set[str]) -> Iterator[Block]:
    for block in page.blocks:
        if block.kind == "margin" or (titles and running_title(block, page.height) in titles):
            continue
        yield block


def _refer(found: Found, folder: Path, titles: set[str]) -> None:
    labelled: dict[str, list[Figure]] = {}
    for figure in found.figures:
        if figure.block.label:
            labelled.setdefault(figure.block.label, []).append(figure)
    at: dict[int, list[Figure]] = {}
    for figure in found.figures:
        at.setdefault(figure.block.page, []).append(figure)
    for page in pages(folder):
        body = list(_body(page, titles))
        for place, block in enumerate(body):
            if block.kind == "text":
                for label in sorted(mentions(block.text) & labelled.keys()):
                    for figure in labelled[label]:
                        _add(figure, block.text)
                        figure.referred = True
            elif block.kind == "figure":
                for figure in at.get(page.number, ()):
                    if figure.block.box == block.box and not figure.block.label:
                        near = [
                            other.text for other in body[max(0, place - _MAX_NEAR) : place + 3] if other.kind == "text"
                        ]
                        for text in near:
                            _add(figure, text)


def _add(figure: Figure, text: str) -> None:
    text = re.sub(r"\s+", " ", text).strip()
    room = MAX_TEXT - sum(len(part) for part in figure.text)
    if room > 40 and text not in figure.text:
        figure.text.append(text[:room])
