"""A document's pages on disk, one line of JSON each, whatever becomes of the process that reads them.

A page on which the reader crashes or falls silent is noted as such, and reading goes on behind it. `pages.jsonl` is
renamed into place when it is whole, so a killed run finds a document either read or unread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel

from open4ov.documents import mineru
from open4ov.documents.blocks import DocumentError, Page
from open4ov.documents.captions import carry
from open4ov.documents.pdf import look
from open4ov.store import ImageStore, atomic, write_json

PAGES, FAULTS = "pages.jsonl", "faults.json"
MAX_CRASHES = 20
"""Pages of one document that may crash the reader before the rest is given up."""


class Settings(BaseModel):
    """How documents are read. All of it is part of a document's key: other settings, other results."""

    max_pages: int = 0
    max_pixels: int = 8_000_000
    ocr: bool = True
    page_seconds: float = 120.0
    memory: int = 6 * 1024**3


Progress = Callable[[int, int], None]


def extract(
    path: Path, folder: Path, store: ImageStore, settings: Settings, progress: Progress
) -> list[dict[str, str]]:
    """Writes `pages.jsonl` into `folder`, unless it is there, and gives what MinerU's list had at fault.

    Raises DocumentError when nothing of the document can be read.
    """
    target, told = folder / PAGES, folder / FAULTS
    faults: list[dict[str, str]] = []
    if target.is_file():  # read before, by a run that was killed later
        return json.loads(told.read_text(encoding="utf-8")) if told.is_file() else faults
    with atomic(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        if mineru.is_content_list(path):
            _write(mineru.read(path, store, settings.max_pixels, faults), file)
            write_json(told, faults)
        else:
            look(path)  # before a process is started for it
            _write(_read(path, store, settings, progress), file)
    return faults


def pages(folder: Path) -> Iterator[Page]:
    """The pages of a document that was read, one after another."""
    with (folder / PAGES).open(encoding="utf-8") as file:
        for line in file:
            yield Page.model_validate_json(line)


def _write(read: Iterator[Page], file: TextIO) -> None:
    """One page behind, because a caption may stand on the page after its figure."""
    before: Page | None = None
    for page in read:
        if before is not None:
            carry(before.blocks, page.blocks)
            file.write(before.model_dump_json() + "\n")
        before = page
    if before is not None:
        file.write(before.model_dump_json() + "\n")


def _read(path: Path, store: ImageStore, settings: Settings, progress: Progress) -> Iterator[Page]:
    total, first, crashes = 0, 1, 0
    while True:
        reading = 0
        with _Reader(path, store, settings, first) as reader:
            for said in reader.lines():
                if "pages" in said:
                    total = said["pages"]
                    total = min(total, settings.max_pages or total)
                elif "reading" in said:
                    reading = said["reading"]
                elif "refused" in said:
                    if first == 1:
                        raise DocumentError(said["refused"])
                    yield Page(number=first, width=0, height=0, fault=f"after a crash: {said['refused']}")
                    return
                else:
                    page = Page.model_validate(said)
                    first = page.number + 1
                    progress(page.number, total)
                    yield page
            fault = reader.fault()
        if fault is None:
            return
        if not total:
            raise DocumentError(f"cannot be opened: the reader {fault}")
        crashes += 1
        yield Page(number=max(reading, first), width=0, height=0, fault=f"the reader {fault} on this page")
        first = max(reading, first) + 1
        if first > total:
            return
        if crashes == MAX_CRASHES:
            for number in range(first, total + 1):
                yield Page(
                    number=number, width=0, height=0, fault=f"not read: {crashes} pages before crashed the reader"
                )
            return


class _Reader:
    """The worker while it reads. It is killed when it says nothing for `page_seconds`."""

    def __init__(self, path: Path, store: ImageStore, settings: Settings, first: int) -> None:
        numbers = (first, settings.max_pages, settings.max_pixels, int(settings.ocr), settings.memory)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "open4ov.documents.worker",
                str(path.resolve()),
                str(store.root),
                *map(str, numbers),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._seconds = settings.page_seconds
        self._silent = False
        self._errors = ""
        self._drain = threading.Thread(target=self._listen, daemon=True)
        self._drain.start()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._drain.join(5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def lines(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        timer = self._timer()
        try:
            for line in self._process.stdout:
                timer.cancel()
                if line.endswith("\n"):
                    yield json.loads(line)
                timer = self._timer()
        finally:
            timer.cancel()
        self._process.wait()

    def fault(self) -> str | None:
        """Why it ended early; None when it ended well."""
        self._drain.join(5)
        code = self._process.returncode
        if self._silent:
            return f"was ended after {self._seconds:.0f} s without a word"
        if code == 0:
            return None
        last = self._errors.strip().splitlines()[-1:] or [""]
        return f"was ended by signal {-code}" if code < 0 else f"failed ({last[0][:160] or f'code {code}'})"

    def _timer(self) -> threading.Timer:
        timer = threading.Timer(self._seconds, self._end)
        timer.daemon = True
        timer.start()
        return timer

    def _end(self) -> None:
        self._silent = True
        self._process.kill()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors = (self._errors + line)[-2000:]
