"""Chinese characters on a machine that has no font for them: what a page shows of them goes with it.

Two fonts ship, both cut from Noto Sans CJK SC (assets/corpora/font/OFL.txt): the characters of the shipped corpora, and
the rest of GB 2312. A page carries the glyphs it uses of both. Other characters are left to the reader's own fonts.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Any

from fontTools.subset import Options, Subsetter  # pyright: ignore[reportMissingTypeStubs]
from fontTools.ttLib import TTFont  # pyright: ignore[reportMissingTypeStubs]

from open4ov import assets

_FOLDER = assets.ROOT / "corpora" / "font"
SHIPPED = {
    "Noto Sans CJK SC": _FOLDER / "NotoSansCJKsc-subset.otf",
    "Noto Sans CJK SC More": _FOLDER / "NotoSansCJKsc-more.otf",
}
"""Family -> file; the first one that has a character gives it. `style.css` names both"""
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
            rules.append(f'@font-face {{ font-family: "{family}"; src: url("{uri}") format("woff"); }}\n')
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
