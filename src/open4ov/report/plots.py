"""Figures of what models can do and how they were trained: scores over the stages, lengths, diversity, curves."""

# matplotlib leaves its keyword arguments untyped:
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from open4ov.report.drawing import COLOURS, INK, Drawing, legend_above
from open4ov.report.table import row_named

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
WIDE = 18
"""Letters that the title of one of so many panels has room for in a line"""
SHORT = 24
"""Letters of a legend's entry, up to which three of them stand side by side"""


def trajectory(table: Mapping[str, Any], names: Sequence[str]) -> Drawing:
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
        titles = [model["title"].replace(" ", "\n") for model in table["models"]]
        axes.set_xticks(range(len(titles)), titles)
        axes.set_ylim(0, 102)
        axes.set_ylabel("percent")
        legend_above(axes)

    return Drawing("trajectory", "From the base to the final model", draw, 5.4, 3.6)


def abilities(table: Mapping[str, Any]) -> Drawing:
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
            if scores:
                axes.plot([min(scores), max(scores)], [y, y], color=INK, alpha=0.25, lw=1, zorder=2)
        axes.set_yticks(range(len(rows)), [row["title"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(-2, 102)
        axes.set_xlabel("percent")
        legend_above(axes)

    title = "Every suite; large dots are the base and the final model"
    return Drawing("abilities", title, draw, 5.4, 0.24 * len(rows) + 1.1)


def lengths(results: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> Drawing | None:
    """How long sampled reasoning responses are: share of responses of each length in tokens, one line a model. None
    where nothing was sampled. Fig. 10c."""
    counted = {name: found["counts"] for name, result in results.items() if (found := result.get("lengths"))}
    if not counted:
        return None
    longest = max(map(len, counted.values()))
    width = max(1, round(longest / 40))  # about forty bins, whatever the longest

    def draw(axes: Axes) -> None:
        for index, (name, counts) in enumerate(counted.items()):
            bins = [sum(counts[start : start + width]) for start in range(0, longest, width)]
            share = [100 * count / sum(counts) for count in bins]
            edges = [width * place - 0.5 for place in range(len(bins) + 1)]
            axes.stairs(share, edges, color=COLOURS[index % len(COLOURS)], lw=1.5, label=titles[name])
        axes.set_xlabel("tokens of a response")
        axes.set_ylabel("percent of responses")
        legend_above(axes, columns=1 if max(len(titles[name]) for name in counted) > SHORT else 3)

    return Drawing("lengths", "How long responses are", draw, 5.4, 3.2)


def diversity(table: Mapping[str, Any]) -> Drawing | None:
    """Distinct responses to one question, and pass@1 beside pass@k, for each model. None where neither was measured.
    Fig. 10b."""
    distinct = row_named(table, "diversity")
    shares = [row for name in ("reasoning", "reasoning_pass_k") if (row := row_named(table, name)) is not None]
    if distinct is None or not shares:
        return None
    titles = [model["title"] for model in table["models"]]

    def bars(axes: Axes, row: Mapping[str, Any], factor: float, offset: float, width: float, alpha: float) -> None:
        for place, cell in enumerate(row["cells"]):
            if cell is None:
                continue
            score, low, high = (factor * cell[key] for key in ("score", "low", "high"))
            axes.bar(place + offset, score, width, color=COLOURS[place % len(COLOURS)], alpha=alpha)
            around = ([max(0.0, score - low)], [max(0.0, high - score)])
            axes.errorbar([place + offset], [score], around, fmt="none", ecolor=INK, elinewidth=1, capsize=2)

    def draw(left: Axes, right: Axes) -> None:
        bars(left, distinct, 1, 0, 0.7, 1)
        left.set_title(f"distinct among {table['samples']} responses", fontsize=9)
        for row, offset, alpha in zip(shares, (-0.2, 0.2), (1, 0.45), strict=False):
            bars(right, row, 100, offset, 0.38, alpha)
        # a colour is a model on both sides; which of the two a bar is, its strength says
        keys = [Patch(color=COLOURS[0], alpha=alpha) for alpha in (1, 0.45)]
        right.legend(
            keys, [row["title"].rpartition(", ")[2] for row in shares], loc="upper center", ncols=2, fontsize=8
        )
        right.set_ylim(0, 125)  # the legend has its room above 100
        right.set_yticks(range(0, 101, 20))
        right.set_title("right responses, percent", fontsize=9)
        for axes in (left, right):
            axes.set_xticks(range(len(titles)), titles, fontsize=7.5, rotation=90)
            axes.grid(visible=False, axis="x")

    return Drawing("diversity", "How different responses to one question are", draw, 5.4, 3.0, panels=2)


def curve(stage: str, title: str, points: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """A stage's training curve: up to three figures against the step, each with a running mean. None if none is
    known."""
    keys = [key for key in CURVES if any(isinstance(point.get(key), int | float) for point in points)][:PANELS]
    if not keys:
        return None

    def draw(*panels: Axes) -> None:
        for axes, key in zip(panels, keys, strict=True):
            known = [(point["step"], point[key]) for point in points if isinstance(point.get(key), int | float)]
            x, y = [step for step, _ in known], [value for _, value in known]
            axes.plot(x, y, color=COLOURS[1], alpha=0.35, lw=0.8)
            axes.plot(x, _running_mean(y), color=COLOURS[1], lw=1.6)
            axes.set_title(textwrap.fill(CURVES[key], WIDE) if len(keys) == PANELS else CURVES[key], fontsize=9)
            axes.set_xlabel("step")

    return Drawing(f"curve-{stage}", title, draw, 5.4, 2.3, panels=len(keys))


def _running_mean(values: Sequence[float]) -> list[float]:
    """The exponential mean of what came so far, without the pull of its start."""
    decay, mean, weight = 0.9, 0.0, 0.0
    out: list[float] = []
    for value in values:
        mean, weight = decay * mean + (1 - decay) * value, decay * weight + (1 - decay)
        out.append(mean / weight)
    return out
