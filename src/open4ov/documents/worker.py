"""Reads a PDF in a process of its own: `python -m open4ov.documents.worker FILE STORE FIRST LIMIT PIXELS OCR MEMORY`.

PDFium parses what strangers wrote: a fault in it ends this process, not the run, and its memory is limited. On stdout,
a line of JSON each: `{"pages": N}`, then for every page `{"reading": n}` and its `Page`; `{"refused": why}` for a
document that cannot be read. Pages before FIRST are passed over; they were read before a crash.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import TextIO

from open4ov.documents.blocks import DocumentError, Page
from open4ov.documents.page_reader import read
from open4ov.documents.pdf import Pdf
from open4ov.store import ImageStore


def serve(file: Path, store: ImageStore, sink: TextIO, first: int, limit: int, max_pixels: int, scans: bool) -> None:
    """Writes what `file` holds, from page `first` (counted from 1), of the first `limit` pages (0: all)."""

    def say(value: object) -> None:
        sink.write(json.dumps(value, ensure_ascii=False) + "\n")
        sink.flush()

    try:
        with Pdf(file, max_pixels) as pdf:
            say({"pages": pdf.pages})
            for number in pdf.numbers(first, limit):
                say({"reading": number})
                try:
                    with pdf.page(number) as (raw, opened):
                        page = read(raw, opened, store, scans)
                except DocumentError as error:
                    page = Page(number=number, width=0, height=0, fault=str(error))
                except MemoryError:
                    page = Page(number=number, width=0, height=0, fault="needs more memory than a page may have")
                say(page.model_dump())
    except DocumentError as error:
        say({"refused": str(error)})


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not become an answer
    name, root, *numbers = sys.argv[1:]
    start, most, pixels, with_ocr, memory = map(int, numbers)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    serve(Path(name), ImageStore(Path(root)), answers, start, most, pixels, bool(with_ocr))
