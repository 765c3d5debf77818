"""What the report tells of RL's tasks: what they are made of (paper Fig. 5), and what of each source was kept out."""

# matplotlib leaves its keyword arguments untyped:
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from open4ov.report.plots import COLOURS, INK, svg_of
from open4ov.run_dir import read_json

ROWS = {
    "source": "source",
    "domain": "domain",
    "task": "question",
    "answer": "answer",
    "language": "language",
    "pictures": "with image, or text only",
    "form": "was multiple choice (cloze), or open",
}
MOST = 6
"""Values of a row that are drawn; the others are one"""


def pool(inputs: Mapping[str, Path]) -> dict[str, Any] | None:
    """The contents of pool.json with its drawing; None for a run without RL."""
    figures = read_json(inputs["rl_pool"] / "pool.json") if "rl_pool" in inputs else None
    if not figures or not figures.get("tasks"):
        return None
    rows = [(ROWS[name], parts) for name, parts in figures["by"].items() if name in ROWS]
    return {"leakage": None, **figures, "rows": rows, "drawing": Markup(distribution(figures["by"]))}


def distribution(by: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A bar a row, cut into the shares of its values: the largest first, from left to right."""
    rows = [(ROWS[name], _largest(parts)) for name, parts in by.items() if name in ROWS]

    def draw(axes: Axes) -> None:
        for place, (_, parts) in enumerate(rows):
            left = 0.0
            for number, (value, share) in enumerate(parts):
                axes.barh(place, share, left=left, height=0.62, color=COLOURS[number % len(COLOURS)], alpha=0.75)
                if share >= 8:
                    axes.text(left + share / 2, place, f"{value} {share:.0f}", ha="center", va="center", fontsize=7.5)
                left += share
        axes.set_yticks(range(len(rows)), [title for title, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent of the tasks")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", colors=INK)

    return svg_of(draw, 7.6, 0.42 * len(rows) + 0.7, "pool")


def _largest(parts: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """(value, percent), the rest taken together."""
    found = [(value, 100 * about["share"]) for value, about in parts.items()]
    rest = sum(share for _, share in found[MOST:])
    return [*found[:MOST], *([("others", rest)] if rest else [])]
