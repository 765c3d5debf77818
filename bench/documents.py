"""Figures and captions found in the Debian handbook, scored against its HTML.

    python bench/documents.py HTML_DIR WORK_DIR

HTML_DIR: `html/en-US` of the Debian package debian-handbook (GPL-2+ or CC-BY-SA-3.0, not shipped here; unpack it
with `dpkg-deb -x`). Every page with a figure, and a few without one, is printed to PDF by Chromium: `--print plain` as
the browser does it, `whole` with a style that keeps pictures on one page. Truth is the HTML's pictures: their titles,
where they have one, and the shapes of the image files. A figure is right when its rectangle has the shape of the image
(10 %), a pair is right when the title is the image's too.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path

from PIL import Image

from open4ov.documents.candidates import find
from open4ov.documents.extract import Settings, extract
from open4ov.store import ImageStore

STYLE = "<style>.figure{break-inside:avoid} img{max-width:100%;max-height:220mm}</style>"
WITHOUT = ("sect.why-debian-stable", "sect.backup", "sect.apt-get", "sect.apparmor")
_PICTURE = re.compile(
    r'<div class="mediaobject">\s*<img src="([^"]+)"[^>]*>'
    r'(?:(?:\s*(?:</div>|<a [^>]*></a>))+\s*<p class="title"><strong>(.*?)</strong>)?',
    re.DOTALL,
)


def truth(page: Path) -> list[tuple[str, float]]:
    """Title ("" where it has none) and width over height of each picture of an HTML page."""
    found = []
    for source, title in _PICTURE.findall(page.read_text(encoding="utf-8")):
        width, height = Image.open(page.parent / source).size
        found.append((plain(re.sub(r"<[^>]+>", "", title)), width / height))
    return found


def plain(text: str) -> str:
    text = unescape(text).replace("\u00a0", " ").replace("’", "'").replace("“", '"').replace("”", '"')
    return re.sub(r"\s+", " ", text).strip()


def print_pdf(page: Path, target: Path, how: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = page
        if how == "whole":
            source = Path(folder) / page.name
            text = page.read_text(encoding="utf-8").replace("</head>", STYLE + "</head>", 1)
            source.write_text(
                text.replace("<head>", f'<head><base href="file://{page.parent}/"/>', 1), encoding="utf-8"
            )
        command = [shutil.which("chromium") or "google-chrome", "--headless", "--no-sandbox", "--disable-gpu"]
        command += ["--no-pdf-header-footer", f"--print-to-pdf={target}", f"file://{source}"]
        subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("html", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--print", dest="how", choices=("plain", "whole"), default="whole")
    options = parser.parse_args()
    html, work = options.html.resolve(), options.work.resolve() / options.how
    work.mkdir(parents=True, exist_ok=True)
    files = [page for page in sorted(html.glob("*.html")) if truth(page) or page.stem in WITHOUT]
    total = {
        "documents": 0,
        "pages": 0,
        "figures": 0,
        "found": 0,
        "captions": 0,
        "right": 0,
        "captions_found": 0,
        "pairs_right": 0,
    }
    for page in files:
        pdf, known = work / f"{page.stem}.pdf", truth(page)
        if not pdf.is_file():
            print_pdf(page, pdf, options.how)
        extract(pdf, work / page.stem, ImageStore(work / "images"), Settings(), lambda done, pages: None)
        found = find(work / page.stem)
        left = list(known)
        right = pairs = 0
        unmatched = [*found.figures]
        captioned = sum(bool(figure.block.caption) for figure in found.figures)
        # those with the right title first: screenshots all have the same shape
        for exact in (True, False):
            for figure in [*unmatched]:
                shape = figure.block.place.width / figure.block.place.height
                said = plain(figure.block.caption)
                same = [one for one in left if abs(shape / one[1] - 1) < 0.1 and (said == one[0] or not exact)]
                if same:
                    left.remove(same[0])
                    unmatched.remove(figure)
                    right += 1
                    pairs += exact and bool(said)
        counts = {"documents": 1, "pages": found.pages, "figures": len(known), "found": len(found.figures)}
        counts |= {
            "captions": sum(bool(title) for title, _ in known),
            "right": right,
            "captions_found": captioned,
            "pairs_right": pairs,
        }
        for name, count in counts.items():
            total[name] += count
        print(page.stem, json.dumps(counts), "missed:", [title for title, _ in left], flush=True)
    print(json.dumps({
        **total,
        "figure_precision": round(total["right"] / total["found"], 3),
        "figure_recall": round(total["right"] / total["figures"], 3),
        "pair_precision": round(total["pairs_right"] / total["captions_found"], 3),
        "pair_recall": round(total["pairs_right"] / total["captions"], 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
