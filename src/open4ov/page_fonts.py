"""Chinese characters on a machine that has no font for them: what a page shows of them goes with it.

Two fonts ship, both cut from Noto Sans CJK SC (assets/corpora/font/OFL.txt): the characters of the shipped corpora, and
the rest of GB 2312. A page that is a file carries the glyphs it uses of both (`embedded`); one that a server fills
while it is read gets the whole fonts from there (`linked`, `serve`). Other characters take the reader's own fonts.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fontTools.subset import Options, Subsetter  # pyright: ignore[reportMissingTypeStubs]
from fontTools.ttLib import TTFont  # pyright: ignore[reportMissingTypeStubs]

from open4ov import assets

if TYPE_CHECKING:
    from fastapi import FastAPI

_FOLDER = assets.ROOT / "corpora" / "font"
SHIPPED = {
    "Noto Sans CJK SC": _FOLDER / "NotoSansCJKsc-subset.otf",
    "Noto Sans CJK SC More": _FOLDER / "NotoSansCJKsc-more.otf",
}
"""Family -> file; the first one that has a character gives it. The pages' styles name both"""
_FIRST = 0x2E80
"""Code point that Chinese begins with; what is before it, everyone has"""


def embedded(html: str) -> str:
    """The page with the glyphs of its Chinese characters in its first style element; without any, as it was."""
    rules: list[str] = []
    wanted = {ord(character) for character in set(html) if ord(character) >= _FIRST}
    for family in SHIPPED:
        used = wanted & _characters(family)
        wanted -= used
        if used:
            uri = "data:font/woff;base64," + base64.b64encode(_subset(family, frozenset(used))).decode()
            rules.append(_rule(family, uri, "woff"))
    return _ruled(html, rules)


def linked(html: str) -> str:
    """The page with rules in its first style element for `fonts/NAME` of `serve`. Its script is to load them before it
    shows anything: Chromium leaves boxes as they are when a font comes later and no other font had the character."""
    return _ruled(html, [_rule(family, f"fonts/{path.name}", "opentype") for family, path in SHIPPED.items()])


def serve(app: FastAPI) -> None:
    """Gives the shipped fonts where a `linked` page at the root of the application asks for them."""
    from fastapi import HTTPException
    from fastapi.responses import FileResponse, Response

    files = {path.name: path for path in SHIPPED.values()}

    def font(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return FileResponse(files[name], media_type="font/otf", headers={"X-Content-Type-Options": "nosniff"})

    app.get("/fonts/{name}")(font)


def _rule(family: str, url: str, kind: str) -> str:
    return f'@font-face {{ font-family: "{family}"; src: url("{url}") format("{kind}"); }}\n'


def _ruled(html: str, rules: Sequence[str]) -> str:
    return html.replace("</style>", "".join(rules) + "</style>", 1)


@lru_cache(maxsize=4)
def _characters(family: str) -> frozenset[int]:
    with TTFont(SHIPPED[family], lazy=True) as font:
        return frozenset(_map(font))


@lru_cache(maxsize=4)
def _subset(family: str, used: frozenset[int]) -> bytes:
    """WOFF with the glyphs of these code points; the same ones give the same bytes."""
    options = Options()
    options.name_IDs, options.layout_features, options.hinting = [], [], False
    cut: Any = Subsetter(options)
    cut.populate(unicodes=used)
    with TTFont(SHIPPED[family], lazy=True, recalcTimestamp=False) as font:
        cut.subset(font)
        font.flavor = "woff"
        file = io.BytesIO()
        font.save(file)
    return file.getvalue()


def _map(font: Any) -> dict[int, str]:
    return font.getBestCmap()
