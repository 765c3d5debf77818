"""The curves of a ratio search: what each candidate's score was after how many tokens, as inline SVG."""

# matplotlib leaves its keyword arguments untyped:
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes

from open4ov.report.drawing import INK, svg_of

TITLES = {"vertical": "vertical (new data)", "general": "general (stable version)", "value": "objective"}


def curves(record: Mapping[str, Any]) -> str:
    """Three panels over the tokens: both scores, with the base's (dashed) and the margin (dotted), and the objective.
    Stopped candidates end in a cross, the chosen one is drawn thick and ends in a star. `record`: ratio.json."""
    candidates = record["candidates"]
    shades = [colormaps["viridis"](0.08 + 0.8 * i / max(len(candidates) - 1, 1)) for i in range(len(candidates))]

    def draw(*panels: Axes) -> None:
        for axes, (key, title) in zip(panels, TITLES.items(), strict=True):
            factor = 1 if key == "value" else 100
            start = 0.0 if key == "value" else factor * record["base"][key]
            axes.axhline(start, color=INK, alpha=0.45, lw=1, ls="--")
            if key == "general" and "margin" in record["objective"]:
                axes.axhline(start - factor * record["objective"]["margin"], color=INK, alpha=0.6, lw=1, ls=":")
            for place, (one, shade) in enumerate(zip(candidates, shades, strict=True)):
                chosen = place == record["chosen"]
                x = [0, *(trial["tokens"] / 1000 for trial in one["trials"])]
                y = [start, *(factor * trial[key] for trial in one["trials"])]
                axes.plot(x, y, color=shade, lw=2.6 if chosen else 1.2, label=one["name"], zorder=4 if chosen else 2)
                axes.plot(
                    x[-1:],
                    y[-1:],
                    color=shade,
                    marker="*" if chosen else "x" if one["dropped"] else "o",
                    ms=13 if chosen else 6,
                    zorder=5,
                )
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("thousand tokens")
            axes.set_ylabel("" if key == "value" else "percent")
        panels[-1].legend(title="ratio", loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return svg_of(draw, 10.5, 3.2, "ratio search", panels=3)
