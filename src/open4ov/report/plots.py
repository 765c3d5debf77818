"""Plots as inline SVG: the same input gives the same bytes, and text takes the colour of the page (light or dark)."""

# matplotlib leaves its keyword arguments untyped:
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from open4ov.report.table import row_named

COLOURS = ("#8a8f98", "#3b82c4", "#2a9d8f", "#b08900", "#d1603d", "#8e5bb5")
"""One a model, in the order of the run; readable on white and on near black."""
INK = "#010203"  # replaced by currentColor
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "legend.frameon": False,
}
CURVES = {
    "loss": "loss",
    "reward": "mean reward",
    "pass_rate": "share of right responses",
    "length": "tokens a response",
    "accuracy": "share of pairs in the right order",
    "lead": "lead of the chosen, nats",
}
"""Keys of curve.json that are drawn, at most `PANELS` a stage, in this order."""
PANELS = 3


def trajectory(table: Mapping[str, Any], names: Sequence[str]) -> str:
    """Scores of a few rows over the stages, with intervals (percent)."""
    rows = [row for name in names if (row := row_named(table, name)) is not None]

    def draw(axes: Axes) -> None:
        for index, row in enumerate(rows):
            points = [(x, cell) for x, cell in enumerate(row["cells"]) if cell is not None]
            x = [place + (index - (len(rows) - 1) / 2) * 0.06 for place, _ in points]
            y = [100 * cell["score"] for _, cell in points]
            below = [100 * (cell["score"] - cell["low"]) for _, cell in points]
            above = [100 * (cell["high"] - cell["score"]) for _, cell in points]
            colour = COLOURS[(index + 1) % len(COLOURS)]
            axes.errorbar(x, y, (below, above), marker="o", ms=4, capsize=2, lw=1.6, color=colour, label=row["title"])
        axes.set_xticks(range(len(table["models"])), [model["title"] for model in table["models"]])
        axes.set_ylim(0, 102)
        axes.set_ylabel("percent")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return svg_of(draw, 7.6, 3.2, "trajectory")


def abilities(table: Mapping[str, Any]) -> str:
    """Every suite measured in percent: a dot for each model, base to final."""
    rows = [row for row in table["rows"] if row["unit"] == "share" and not row["group"]]

    def draw(axes: Axes) -> None:
        for index, model in enumerate(table["models"]):
            points = [(100 * cell["score"], y) for y, row in enumerate(rows) if (cell := row["cells"][index])]
            ends = index in (0, len(table["models"]) - 1)
            axes.scatter(
                [x for x, _ in points],
                [y for _, y in points],
                s=46 if ends else 18,
                color=COLOURS[index % len(COLOURS)],
                label=model["title"],
                zorder=3,
            )
        for y, row in enumerate(rows):
            scores = [100 * cell["score"] for cell in row["cells"] if cell]
            axes.plot([min(scores), max(scores)], [y, y], color=INK, alpha=0.25, lw=1, zorder=2)
        axes.set_yticks(range(len(rows)), [row["title"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(-2, 102)
        axes.set_xlabel("percent")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return svg_of(draw, 7.6, 0.26 * len(rows) + 0.9, "abilities")


def lengths(results: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """How long sampled reasoning responses are: share of responses of each length in tokens, one line a model."""
    counted = {name: result["lengths"]["counts"] for name, result in results.items() if result["lengths"]}

    def draw(axes: Axes) -> None:
        for index, (name, counts) in enumerate(counted.items()):
            share = [100 * count / sum(counts) for count in counts]
            axes.step(
                range(len(share)), share, where="mid", color=COLOURS[index % len(COLOURS)], lw=1.4, label=titles[name]
            )
        axes.set_xlabel("tokens of a response")
        axes.set_ylabel("percent of responses")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return svg_of(draw, 7.6, 2.8, "lengths")


def curve(stage: str, points: Sequence[Mapping[str, Any]]) -> str:
    """A stage's training curve: up to three figures against the step, each with a running mean. "" if none is known."""
    keys = [key for key in CURVES if any(isinstance(point.get(key), int | float) for point in points)][:PANELS]
    if not keys:
        return ""

    def draw(*panels: Axes) -> None:
        for axes, key in zip(panels, keys, strict=True):
            known = [(point["step"], point[key]) for point in points if isinstance(point.get(key), int | float)]
            x, y = [step for step, _ in known], [value for _, value in known]
            axes.plot(x, y, color=COLOURS[1], alpha=0.35, lw=0.8)
            axes.plot(x, _running_mean(y), color=COLOURS[1], lw=1.6)
            axes.set_title(CURVES[key], fontsize=9)
            axes.set_xlabel("step")

    return svg_of(draw, 2.7 * len(keys), 2.1, f"curve {stage}", panels=len(keys))


def _running_mean(values: Sequence[float]) -> list[float]:
    """The exponential mean of what came so far, without the pull of its start."""
    decay, mean, weight = 0.9, 0.0, 0.0
    out: list[float] = []
    for value in values:
        mean, weight = decay * mean + (1 - decay) * value, decay * weight + (1 - decay)
        out.append(mean / weight)
    return out


def svg_of(draw: Callable[..., None], width: float, height: float, name: str, panels: int = 1) -> str:
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"open4ov {name}"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(*figure.subplots(1, panels, squeeze=False)[0])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    opening = rf'<svg viewBox="\1" role="img" aria-label="{name}">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', opening, svg, count=1)
