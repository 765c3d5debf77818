"""The headline figure: every suite on a spoke, a closed line for each model (the paper's Fig. 1)."""

# matplotlib leaves its keyword arguments untyped:
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.projections.polar import PolarAxes

from open4ov.report.drawing import COLOURS, INK, Drawing, legend_above

FEWEST = 3
"""Spokes of a radar; with fewer there is no area"""


def radar(table: Mapping[str, Any], only: frozenset[int] | None = None) -> Drawing | None:
    """Suites in percent, the rim is 100. `only`: places of the models to draw, all if None. None for too few suites.

    A suite that one of the models was not asked is not drawn: a line over a gap would lie. Nor is one of which less is
    better: outwards is better on all spokes.
    """
    places = [place for place in range(len(table["models"])) if only is None or place in only]
    rows = [
        row
        for row in table["rows"]
        if row["unit"] == "share"
        and row["better"] == "higher"
        and not row["group"]
        and all(row["cells"][place] for place in places)
    ]
    if len(rows) < FEWEST or not places:
        return None
    angles = [2 * math.pi * place / len(rows) for place in range(len(rows))]

    def draw(axes: PolarAxes) -> None:
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        for place in places:
            model = table["models"][place]
            scores = [100 * row["cells"][place]["score"] for row in rows]
            ends = place in (places[0], places[-1])
            colour = COLOURS[place % len(COLOURS)]
            around, closed = [*angles, angles[0]], [*scores, scores[0]]
            (line,) = axes.plot(around, closed, color=colour, lw=2 if ends else 1.2, label=model["title"])
            (area,) = axes.fill(around, closed, color=colour, alpha=0.12 if ends else 0)
            line.set_gid(f"model-{model['name']}")
            area.set_gid(f"model-{model['name']}")
        axes.set_ylim(0, 100)
        axes.set_yticks([25, 50, 75, 100], ["25", "50", "75", "100"], fontsize=7, alpha=0.7)
        axes.set_rlabel_position(180 / len(rows))
        axes.set_xticks(angles, ["" for _ in rows])
        for place, (angle, row) in enumerate(zip(angles, rows, strict=True)):
            side = "center" if abs(math.sin(angle)) < 0.2 else "left" if math.sin(angle) > 0 else "right"
            further = place % 2 and math.cos(angle) < -0.8  # at the foot neighbours' words would touch
            title = row["title"].replace(", ", ",\n")
            axes.text(angle, 123 if further else 108, title, ha=side, va="center", fontsize=8)
        axes.spines["polar"].set_color(INK)
        axes.spines["polar"].set_alpha(0.25)
        legend_above(axes)

    return Drawing("radar", "What the models can do, percent", draw, 5.4, 5.0, polar=True, page_legend=False)
