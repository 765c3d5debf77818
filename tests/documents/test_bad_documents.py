"""Documents that cannot be used: each says why, and the others go on."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("pypdfium2", reason="needs the extra: pip install 'open4ov[documents]'")

from documents.compose import Sheet, photo, save
from documents.pages_known import LEFT

from open4ov.documents import extract as extraction
from open4ov.documents.build import build
from open4ov.documents.extract import Settings, extract, pages
from open4ov.errors import UserError
from open4ov.progress import Quiet
from open4ov.store import ImageStore, read_samples

DAMAGED = "is damaged or truncated, or has no pages: PDFium cannot open it"


def good(path: Path) -> Path:
    sheet = Sheet()
    sheet.image((100, 100, 300, 250), photo(1))
    sheet.text(100, 258, "Figure 1. The tank")
    return save(path, [sheet])


@pytest.mark.slow
def test_each_bad_document_says_why_and_the_good_one_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good(folder / "good.pdf")
    whole = (folder / "good.pdf").read_bytes()
    (folder / "again.pdf").write_bytes(whole)
    (folder / "cut.pdf").write_bytes(whole[:40])
    (folder / "noise.pdf").write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 40)
    (folder / "empty.pdf").write_bytes(b"")
    (folder / "page.pdf").write_text("<!DOCTYPE html><html><body>hello</body></html>")
    with zipfile.ZipFile(folder / "zip.pdf", "w") as archive:
        archive.writestr("a.txt", "hello")
    save(folder / "locked.pdf", [Sheet()], encrypted=True)
    save(folder / "none.pdf", [])
    text = Sheet()
    text.paragraph(72, 72, LEFT)
    save(folder / "text.pdf", [text])
    save(folder / "huge.pdf", [Sheet((200_000, 200_000)), Sheet((2, 500))])
    report = build([folder, tmp_path / "missing.pdf"], tmp_path / "out", Settings(), None, 3, Quiet())
    said = {Path(entry["file"]).name: (entry["status"], entry["reason"]) for entry in report["documents"]}
    # "again" comes first by name, so "good" is the one that is the same
    assert said["again.pdf"] == ("read", "")
    assert said["good.pdf"] == ("left out", f"is the same as {folder / 'again.pdf'}")
    assert said["cut.pdf"] == ("left out", DAMAGED)
    assert said["noise.pdf"] == ("left out", DAMAGED)
    assert said["empty.pdf"] == ("left out", "the file is empty (0 bytes)")
    assert said["page.pdf"] == ("left out", "is no PDF: by its first bytes it is an HTML page")
    assert said["zip.pdf"][1] == "is no PDF: by its first bytes it is a zip archive (or an Office document)"
    assert said["locked.pdf"] == ("left out", "is encrypted and needs a password; save it without one")
    assert said["none.pdf"] == ("left out", DAMAGED)
    assert said["text.pdf"] == ("dropped", "has no images")
    assert said["huge.pdf"] == ("left out", "none of its pages could be read")
    assert said["missing.pdf"] == ("left out", "no such file")
    left = next(entry for entry in report["documents"] if entry["file"].endswith("huge.pdf"))["pages_left_out"]
    assert {entry["pages"] for entry in left} == {"1", "2"}
    assert all("points are read" in entry["reason"] for entry in left)
    assert report["counts"]["documents"] == len(said) == 12
    assert len(read_samples(tmp_path / "out" / "figures.parquet")) == 1


def test_a_truncated_file_gives_what_can_be_saved_or_says_why(tmp_path: Path) -> None:
    whole = good(tmp_path / "a.pdf").read_bytes()
    for share in (0.6, 0.99):
        (tmp_path / f"{share}.pdf").write_bytes(whole[: int(len(whole) * share)])
    report = build([tmp_path], tmp_path / "out", Settings(), None, 3, Quiet())
    assert all(entry["status"] == "read" or entry["reason"] for entry in report["documents"])
    assert report["counts"]["documents"] == 3


def test_a_giant_page_is_drawn_within_the_pixel_limit(tmp_path: Path) -> None:
    sheet = Sheet((14_000, 14_000))
    sheet.image((1000, 1000, 9000, 9000), photo(1))
    save(tmp_path / "g.pdf", [sheet])
    folder, store = tmp_path / "read", ImageStore(tmp_path / "images")
    extract(tmp_path / "g.pdf", folder, store, Settings(max_pixels=1_000_000), lambda done, total: None)
    (page,) = pages(folder)
    assert page.image
    width, height = store.get(page.image).size
    assert 900_000 < width * height <= 1_010_000


def test_the_page_limit_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "m.pdf", [Sheet() for _ in range(9)])
    extract(tmp_path / "m.pdf", tmp_path / "read", ImageStore(tmp_path / "i"), Settings(max_pages=4), lambda a, b: None)
    assert [page.number for page in pages(tmp_path / "read")] == [1, 2, 3, 4]


FAKE = """
import json, os, signal, sys, time
def say(value): print(json.dumps(value), flush=True)
first = int(sys.argv[3])
say({"pages": 5})
for number in range(first, 6):
    say({"reading": number})
    if number == 2: os.kill(os.getpid(), signal.SIGSEGV)
    if number == 4: time.sleep(60)
    say({"number": number, "width": 612, "height": 792, "blocks": []})
"""


def test_a_crash_and_a_hang_cost_one_page_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    start = extraction.subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        return start([sys.executable, str(fake), *command[3:]], **options)  # pyright: ignore

    monkeypatch.setattr(extraction.subprocess, "Popen", popen)
    good(tmp_path / "a.pdf")
    extract(tmp_path / "a.pdf", tmp_path / "r", ImageStore(tmp_path / "i"), Settings(page_seconds=3), lambda a, b: None)
    assert [(page.number, page.fault) for page in pages(tmp_path / "r")] == [
        (1, None),
        (2, f"the reader was ended by signal {int(signal.SIGSEGV)} on this page"),
        (3, None),
        (4, "the reader was ended after 3 s without a word on this page"),
        (5, None),
    ]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document: name PDF files"):
        build([tmp_path], tmp_path / "out", Settings(), None, 3, Quiet())


def test_a_scanned_page_without_ocr_is_listed(tmp_path: Path) -> None:
    sheet = Sheet()
    sheet.image((0, 0, 612, 792), photo(1, (612, 792)))
    save(tmp_path / "s.pdf", [sheet])
    report = build([tmp_path / "s.pdf"], tmp_path / "out", Settings(ocr=False), None, 3, Quiet())
    (entry,) = report["documents"]
    assert entry["status"] == "left out"
    assert entry["pages_left_out"] == [{"pages": "1", "reason": "is scanned, and --no-ocr leaves such pages unread"}]


@pytest.mark.slow
def test_five_thousand_pages_need_no_more_memory_than_a_hundred(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        sheets = []
        for number in range(count):
            sheet = Sheet()
            sheet.paragraph(72, 72, LEFT * 5)
            if number % 50 == 0:
                sheet.image((100, 400, 300, 550), photo(number))
                sheet.text(100, 560, f"Figure {number}. A tank")
            sheets.append(sheet)
        save(tmp_path / f"{count}.pdf", sheets)
        del sheets
        child = os.fork()
        if child == 0:
            store = ImageStore(tmp_path / "i")
            extract(tmp_path / f"{count}.pdf", tmp_path / f"r{count}", store, Settings(), lambda a, b: None)
            (tmp_path / f"peak{count}").write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
            os._exit(0)
        os.waitpid(child, 0)
        return int((tmp_path / f"peak{count}").read_text()) * 1024

    small, large = peak(100), peak(5000)
    assert sum(1 for _ in pages(tmp_path / "r5000")) == 5000
    assert large - small < 64 * 1024**2, (small, large)


def test_done_json_is_the_documents_part_of_the_report(tmp_path: Path) -> None:
    good(tmp_path / "a.pdf")
    report = build([tmp_path / "a.pdf"], tmp_path / "out", Settings(), None, 3, Quiet())
    (done,) = (tmp_path / "out").rglob("done.json")
    assert json.loads(done.read_text()).items() <= report["documents"][0].items()
