"""A PDF's text with positions, its image objects, its vector paths, and its pages as pictures, through PDFium.

Pages are opened one at a time and closed again, and the document is opened anew every `REOPEN` pages: PDFium keeps what
it has parsed, and a document of 5,000 pages is to need no more memory than one of 50.
"""

# pypdfium2's raw calls carry no types:
# pyright: basic, reportMissingImports=false, reportOptionalMemberAccess=false
from __future__ import annotations

import ctypes
import math
import unicodedata
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from open4ov.documents.blocks import Box, DocumentError, Drawing, Line, RawPage

REOPEN = 64
DPI = 144
"""Resolution of page and figure pictures, where the pixel limit allows it."""

MAX_SIDE = 14_400.0
"""Points: PDF's own limit, 200 inches. A page beyond it, or thinner than `MIN_SIDE`, is refused."""

MIN_SIDE = 9.0
MAX_OBJECTS = 60_000
"""Paths and images of a page that are looked at; maps and plots can have millions."""

MAX_CHARACTERS = 200_000
_HEAD = 1024  # bytes in which `%PDF-` must stand, as PDF readers have it


def pdfium() -> Any:
    """The library. Raises DocumentError when it is not installed."""
    try:
        import pypdfium2
    except ImportError:
        raise DocumentError("reading PDF files needs pypdfium2: pip install 'open4ov[documents]'") from None
    return pypdfium2


def look(path: Path) -> None:
    """Raises DocumentError for what is no PDF by its first bytes, saying what it is instead."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        raise DocumentError("no such file") from None
    except IsADirectoryError:
        raise DocumentError("is a folder, not a PDF file") from None
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror or error}") from None
    if not head:
        raise DocumentError("the file is empty (0 bytes)")
    if b"%PDF-" in head:
        return
    start = head.lstrip().lower()
    kinds = {
        b"pk\x03\x04": "a zip archive (or an Office document)",
        b"<!doctype html": "an HTML page", b"<html": "an HTML page",
        b"\x89png": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"\x1f\x8b": "a gzip file", b"<?xml": "an XML file",
        b"{\\rtf": "an RTF document", b"%!ps": "a PostScript file", b"\xd0\xcf\x11\xe0": "an old Office document",
    }  # fmt: skip
    found = next((name for magic, name in kinds.items() if start.startswith(magic)), "of an unknown kind")
    raise DocumentError(f"is no PDF: by its first bytes it is {found}")


class Pdf:
    """An open document of `pages` pages. Raises DocumentError when it is encrypted, damaged, or has no pages."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        look(path)
        self._lib = pdfium()
        self._raw = self._lib.raw
        self._path = path
        self._max_pixels = max_pixels
        self._opened = 0
        self._document: Any = self._open()
        self.pages = len(self._document)
        if self.pages == 0:
            self.close()
            raise DocumentError("has no pages")

    def __enter__(self) -> Pdf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._document.close()

    def numbers(self, first: int = 1, limit: int = 0) -> range:
        """The numbers of the pages from `first` on, of the first `limit` pages (0: all)."""
        return range(first, min(self.pages, limit or self.pages) + 1)

    @contextmanager
    def page(self, number: int) -> Generator[tuple[RawPage, OpenPage]]:
        """A page, counted from 1, and what can draw it while it is open. Raises DocumentError: it cannot be used."""
        self._opened += 1
        if self._opened % REOPEN == 0:
            self._document.close()
            self._document = self._open()
        try:
            page = self._document[number - 1]
        except self._lib.PdfiumError:
            raise DocumentError("the page is damaged and cannot be loaded") from None
        try:
            opened = OpenPage(self._lib, page, self._max_pixels)
            yield opened.raw_page(number), opened
        except self._lib.PdfiumError as error:
            raise DocumentError(f"the page is damaged: {error}") from None
        finally:
            page.close()

    def _open(self) -> Any:
        try:
            return self._lib.PdfDocument(self._path)
        except self._lib.PdfiumError as error:
            code = getattr(error, "err_code", None)
            if code == self._raw.FPDF_ERR_PASSWORD:
                raise DocumentError("is encrypted and needs a password; save it without one") from None
            if code == self._raw.FPDF_ERR_SECURITY:
                raise DocumentError("is encrypted in a way that is not supported; save it without encryption") from None
            raise DocumentError("is damaged or truncated, or has no pages: PDFium cannot open it") from None


class OpenPage:
    """A page while it is open. Raises DocumentError for a page of an absurd size."""

    def __init__(self, lib: Any, page: Any, max_pixels: int) -> None:
        self._lib, self._raw, self._page = lib, lib.raw, page
        self.width, self.height = page.get_size()
        sides = sorted((self.width, self.height))
        if not (math.isfinite(sides[1]) and sides[0] >= MIN_SIDE and sides[1] <= MAX_SIDE):
            raise DocumentError(
                f"the page measures {self.width:.0f} x {self.height:.0f} points; sides from {MIN_SIDE:.0f} to "
                f"{MAX_SIDE:.0f} points are read"
            )
        self.scale = min(DPI / 72, math.sqrt(max_pixels / (self.width * self.height)))
        self._affine = self._to_display()
        self._picture: Image.Image | None = None

    def picture(self) -> Image.Image:
        """The page in RGB, at `scale` pixels a point: never more than the pixel limit."""
        if self._picture is None:
            bitmap = self._page.render(scale=self.scale, rev_byteorder=True, limit_image_cache=True, prefer_bgrx=False)
            picture: Image.Image = bitmap.to_pil().convert("RGB")
            bitmap.close()
            self._picture = picture
        return self._picture

    def crop(self, box: Box) -> Image.Image:
        """A part of the page in RGB."""
        picture = self.picture()
        left, top = max(0, math.floor(box.left * self.scale)), max(0, math.floor(box.top * self.scale))
        right = min(picture.width, max(left + 1, math.ceil(box.right * self.scale)))
        bottom = min(picture.height, max(top + 1, math.ceil(box.bottom * self.scale)))
        return picture.crop((left, top, right, bottom))

    def raw_page(self, number: int) -> RawPage:
        lines, drawings = self._lines(), list(self._drawings())
        return RawPage(number, self.width, self.height, lines, drawings)

    def _to_display(self) -> tuple[float, float, float, float, float, float]:
        """User space to points from the displayed top left: rotation, crop box and the upward y axis undone."""
        many = 1_000  # device units a point, because PDFium answers in whole ones
        across, down = round(self.width * many), round(self.height * many)
        x, y = ctypes.c_int(), ctypes.c_int()
        seen: list[tuple[float, float]] = []
        for at in ((0.0, 0.0), (100.0, 0.0), (0.0, 100.0)):
            self._raw.FPDF_PageToDevice(self._page, 0, 0, across, down, 0, *at, x, y)
            seen.append((x.value / many, y.value / many))
        (e, f), (ax, ay), (bx, by) = seen
        return (ax - e) / 100, (ay - f) / 100, (bx - e) / 100, (by - f) / 100, e, f

    def _shown(self, left: float, bottom: float, right: float, top: float) -> Box:
        a, b, c, d, e, f = self._affine
        xs, ys = zip(
            *((a * x + c * y + e, b * x + d * y + f) for x in (left, right) for y in (bottom, top)), strict=True
        )
        return Box(min(xs), min(ys), max(xs), max(ys))

    def _lines(self) -> list[Line]:
        """Runs of characters in PDFium's order; a new one at each line break, jump of baseline, or gap of 1.5 em."""
        raw, textpage = self._raw, self._page.get_textpage()
        lines: list[Line] = []
        letters: list[str] = []
        box: list[float] = []
        size = weight = 0.0
        rect = raw.FS_RECTF()

        def end() -> None:
            text = unicodedata.normalize("NFC", "".join(letters)).strip()
            if text and box:
                lines.append(Line(Box(*box), text, size, weight >= 600))
            letters.clear()
            box.clear()

        try:
            for index in range(min(textpage.count_chars(), MAX_CHARACTERS)):
                code = raw.FPDFText_GetUnicode(textpage, index)
                letter = chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"
                if letter in "\r\n":
                    end()
                    continue
                if letter in "\x02\u00ad":  # PDFium's mark of a hyphen at a line's end
                    letter = "-"
                if letter.isspace() or unicodedata.category(letter) == "Cc":
                    letters.append(" " if letters and letters[-1] != " " else "")
                    continue
                if not raw.FPDFText_GetLooseCharBox(textpage, index, rect):
                    continue
                left, top, right, bottom = self._shown(rect.left, rect.bottom, rect.right, rect.top)
                height = max(1.0, bottom - top)
                if box:
                    middle = (top + bottom) / 2
                    gap = left - box[2]
                    if not box[1] - 1 <= middle <= box[3] + 1 or gap > 1.5 * height or gap < -2 * height:
                        end()
                if not box:
                    box[:] = [left, top, right, bottom]
                    size = height  # as displayed; the font's own size is before the text matrix
                    weight = raw.FPDFText_GetFontWeight(textpage, index)
                else:
                    box[:] = [min(box[0], left), min(box[1], top), max(box[2], right), max(box[3], bottom)]
                letters.append(letter)
            end()
        finally:
            textpage.close()
        return lines

    def _drawings(self) -> Iterator[Drawing]:
        seen = 0
        whole = Box(0, 0, self.width, self.height)
        for item, matrix in self._objects():
            seen += 1
            if seen > MAX_OBJECTS:
                return
            image = item.type in (self._raw.FPDF_PAGEOBJ_IMAGE, self._raw.FPDF_PAGEOBJ_SHADING)
            if not image and item.type != self._raw.FPDF_PAGEOBJ_PATH:
                continue
            try:
                left, bottom, right, top = item.get_bounds()
            except self._lib.PdfiumError:
                continue
            corners = [matrix(x, y) for x in (left, right) for y in (bottom, top)]
            xs, ys = zip(*corners, strict=True)
            box = self._shown(min(xs), min(ys), max(xs), max(ys))
            if not all(math.isfinite(side) for side in box) or not box.touches(whole):
                continue
            if image:
                yield Drawing(box.common(whole), image=True)
            else:
                yield Drawing(box.common(whole), False, self._bent(item), self._filled(item))

    def _objects(self) -> Iterator[tuple[Any, Any]]:
        """Page objects with the function that takes their coordinates to the page's, through nested forms."""
        raw = self._raw
        wanted = [raw.FPDF_PAGEOBJ_PATH, raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_SHADING, raw.FPDF_PAGEOBJ_FORM]
        stack: list[Any] = [lambda x, y: (x, y)]
        for item in self._page.get_objects(filter=wanted, max_depth=6):
            del stack[item.level + 1 :]
            outer = stack[item.level] if item.level < len(stack) else stack[-1]
            yield item, outer
            if item.type == raw.FPDF_PAGEOBJ_FORM:
                matrix = item.get_matrix()
                stack.append(lambda x, y, m=matrix, o=outer: o(*m.on_point(x, y)))

    def _filled(self, path: Any) -> bool:
        fill, stroke = ctypes.c_int(), ctypes.c_int()
        self._raw.FPDFPath_GetDrawMode(path, fill, stroke)
        return bool(fill.value) and not stroke.value

    def _bent(self, path: Any) -> bool:
        """Whether a path has a slanted stroke or a curve that is more than the round corner of a box.

        Looks at the first 200 segments.
        """
        raw = self._raw
        x, y = ctypes.c_float(), ctypes.c_float()
        points: list[tuple[float, float]] = []
        chords: list[float] = []
        handles = 0
        for index in range(min(raw.FPDFPath_CountSegments(path), 200)):
            segment = raw.FPDFPath_GetPathSegment(path, index)
            kind = raw.FPDFPathSegment_GetType(segment)
            raw.FPDFPathSegment_GetPoint(segment, x, y)
            here = (x.value, y.value)
            if kind == raw.FPDF_SEGMENT_BEZIERTO:  # two handles, then the end
                handles += 1
                if handles % 3:
                    continue
                chords.append(math.dist(points[-1], here) if points else 0.0)
            elif kind == raw.FPDF_SEGMENT_LINETO and points and _slants(points[-1], here):
                return True
            points.append(here)
        if len(chords) > 8:
            return True
        if not chords:
            return False
        xs, ys = zip(*points, strict=True)
        return max(chords) >= 0.2 * max(max(xs) - min(xs), max(ys) - min(ys), 1.0)


def _slants(start: tuple[float, float], end: tuple[float, float]) -> bool:
    return min(abs(end[0] - start[0]), abs(end[1] - start[1])) > 2
