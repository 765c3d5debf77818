"""The page that shows sessions in a browser: one file, nothing from elsewhere; only its own script and style run."""

from __future__ import annotations

from pathlib import Path

from open4ov import closed_page

HTML = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
HEADERS = closed_page.headers(HTML, images="blob:")
