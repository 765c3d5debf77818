"""A figure once described, drawn for the page (inline SVG in the page's own colours) or for a paper (SVG or PNG file).

The same input gives the same bytes.
"""

# matplotlib leaves its keyword arguments untyped:
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from open4ov import page_fonts

COLOURS = ("#8a8f98", "#3b82c4", "#2a9d8f", "#b08900", "#d1603d", "#8e5bb5")
"""One a model, in the order of the run; readable on white and on near black."""
INK = "#010203"  # replaced by currentColor
FORMATS = ("svg", "png")
DPI = 200
"""Of a PNG for a paper"""
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@dataclass(frozen=True)
class Drawing:
    """One figure. `name` is that of its files and unique in a report; `width` and `height` are inches; `draw` is called
    with as many axes as there are `panels`."""

    name: str
    title: str
    draw: Callable[..., None]
    width: float
    height: float
    panels: int = 1
    polar: bool = False
    page_legend: bool = True
    """Whether the page shows its legend: it may have something else in its place"""

    def svg(self) -> str:
        """For the page: no size of its own, text as text, `currentColor` for ink, no ids but those referred to.

        What was drawn with the gid `model-NAME` carries `data-model="NAME"`.
        """
        svg = self._bytes(
            "svg", {"svg.fonttype": "none", "font.family": [*_families(), "sans-serif"]}, self.page_legend
        ).decode()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
        svg = re.sub(r' id="model-([^"]*)"', r' data-model="\1"', svg)
        used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
        svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
        opening = rf'<svg viewBox="\1" role="img" aria-label="{_attribute(self.title)}">'
        return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', opening, svg, count=1)

    def save(self, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
        """NAME.svg (text as outlines: it looks the same everywhere) and NAME.png, on a transparent ground."""
        made: list[Path] = []
        for kind in formats:
            path = folder / f"{self.name}.{kind}"
            path.write_bytes(self._bytes(kind, {"svg.fonttype": "path", "font.family": list(_families())}))
            made.append(path)
        return made

    def _bytes(self, kind: str, style: dict[Any, Any], legend: bool = True) -> bytes:
        with mpl.rc_context({**_STYLE, **style, "svg.hashsalt": f"open4ov {self.name}"}):
            figure = Figure(
                (self.width, self.height), DPI, layout="constrained"
            )  # at other dots words have other widths
            form = {"projection": "polar"} if self.polar else {}
            self.draw(*figure.subplots(1, self.panels, squeeze=False, subplot_kw=form)[0])
            for one in () if legend else list(figure.legends):
                one.remove()
            engine = figure.get_layout_engine()
            assert engine is not None
            engine.execute(figure)  # once: left to savefig, everything would be drawn twice
            figure.set_layout_engine("none")
            buffer = io.BytesIO()
            about = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
            figure.savefig(buffer, format=kind, transparent=True, dpi=DPI, metadata=about)
        return buffer.getvalue()


def svg_of(draw: Callable[..., None], width: float, height: float, name: str, panels: int = 1) -> str:
    """A figure that is on a page only."""
    return Drawing(name, name, draw, width, height, panels).svg()


def legend_above(axes: Axes, columns: int = 3) -> None:
    """The legend over the whole figure, where it takes no width: pages are read on phones too."""
    axes.figure.legend(loc="outside upper center", ncols=columns)  # pyright: ignore[reportCallIssue]


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace("\\", "\\\\")


@lru_cache(maxsize=1)
def _families() -> tuple[str, ...]:
    """matplotlib's own font, then the shipped ones that have Chinese characters."""
    for path in page_fonts.SHIPPED.values():
        font_manager.fontManager.addfont(path)
    return "DejaVu Sans", *page_fonts.SHIPPED
