"""Figures of what a run was made of: its label tree (the paper's Fig. 3), its RL tasks (Fig. 5), its time."""

# matplotlib leaves its keyword arguments untyped:
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from open4ov.report.drawing import COLOURS, INK, Drawing, legend_above

MOST = 6
"""Values of a row that are drawn; the others are one"""
LINE = 0.17
"""Inches of a leaf of the tree"""


def label_tree(axis: str, title: str, branches: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """One axis as a tree from left to right: first-level labels, their second-level labels, and at each leaf a disc by
    its samples (area; the number beside it). Labels without samples are pale; a branch without any is one line. None
    for an empty tree."""
    if not any(branch["l2"] for branch in branches):
        return None
    most = max([1, *(leaf["samples"] for branch in branches for leaf in branch["l2"])])
    rows: list[list[dict[str, Any]]] = [branch["l2"] if branch["samples"] else [] for branch in branches]
    lines = sum(max(1, len(own)) + 0.5 for own in rows)

    def draw(axes: Axes) -> None:
        y, middles = 0.0, list[float]()
        for own in rows:
            middles.append(y + (max(1, len(own)) - 1) / 2)
            y += max(1, len(own)) + 0.5
        root = sum(middles) / len(middles)
        axes.plot([0], [root], marker="o", ms=6, color=INK)
        y = 0.0
        for number, (branch, own, middle) in enumerate(zip(branches, rows, middles, strict=True)):
            colour = COLOURS[1 + number % (len(COLOURS) - 1)]
            axes.plot([0, 0.1, 0.14], [root, middle, middle], color=colour, lw=1.2, alpha=0.9 if own else 0.35)
            name = branch["name"] if own else f"{branch['name']} ({len(branch['l2'])} labels, no sample)"
            axes.text(0.16, middle, name, va="center", fontsize=8, alpha=1 if own else 0.55)
            for leaf in own:
                seen = leaf["samples"] > 0
                axes.plot([0.8, 0.92, 0.97], [middle, y, y], color=colour, lw=1, alpha=0.9 if seen else 0.3)
                size = max(3, 90 * leaf["samples"] / most)
                axes.scatter([1.02], [y], s=size, color=colour, alpha=0.85 if seen else 0.3, zorder=3)
                text = f"{leaf['name']}  {leaf['samples']:,}" if seen else leaf["name"]
                axes.text(1.1, y, text, va="center", fontsize=8, alpha=1 if seen else 0.55)
                y += 1
            y += 0.5 + (not own)
        axes.set_xlim(-0.05, 2.0)
        axes.set_ylim(lines - 0.5, -1)
        axes.axis("off")

    return Drawing(f"labels-{axis}", title, draw, 5.4, max(1.2, LINE * lines + 0.3))


def distribution(rows: Sequence[tuple[str, Mapping[str, Mapping[str, float]]]]) -> Drawing:
    """A bar a row, cut into the shares of its values: the largest first, from left to right; each is named."""
    shown = [(title, _largest(parts)) for title, parts in rows]

    def draw(axes: Axes) -> None:
        for place, (_, parts) in enumerate(shown):
            left = 0.0
            for number, (value, share) in enumerate(parts):
                axes.barh(place, share, left=left, height=0.62, color=COLOURS[number % len(COLOURS)], alpha=0.75)
                room = share / 100 * 3.9 / 0.068  # inches of the axis over those of a letter
                text = f"{value} {share:.0f}"
                if len(text) > room and " " in value:
                    text = f"{value.replace(' ', chr(10), 1)} {share:.0f}"
                if max(map(len, text.split("\n"))) <= room:
                    axes.text(left + share / 2, place, text, ha="center", va="center", fontsize=7)
                left += share
        axes.set_yticks(range(len(shown)), [title for title, _ in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent of the tasks")
        axes.grid(visible=False, axis="y")

    return Drawing("rl-tasks", "What RL was asked", draw, 5.4, 0.42 * len(shown) + 0.7)


def rings(tasks: Mapping[str, Mapping[str, int]]) -> Drawing | None:
    """The paper's Fig. 5: domains as an inner ring, the questions of each as an outer one. None without tasks."""
    total = sum(sum(kinds.values()) for kinds in tasks.values())
    if not total:
        return None

    def draw(axes: Axes) -> None:
        start = math.pi / 2
        for number, (domain, kinds) in enumerate(tasks.items()):
            colour = COLOURS[1 + number % (len(COLOURS) - 1)]
            count = sum(kinds.values())
            start = _wedge(axes, start, count / total, (0.35, 0.66), colour, 0.9, f"{domain}\n{count:,}")
            at = start + 2 * math.pi * count / total
            for place, (kind, own) in enumerate(kinds.items()):
                at = _wedge(axes, at, own / total, (0.68, 1.0), colour, 0.65 - 0.3 * (place % 2), f"{kind}\n{own:,}")
        axes.set_xlim(-1.05, 1.05)
        axes.set_ylim(-1.05, 1.05)
        axes.set_aspect("equal")
        axes.axis("off")

    return Drawing("rl-rings", "RL tasks: domain (inner) and question (outer)", draw, 4.4, 4.4)


def _wedge(
    axes: Axes, start: float, share: float, radii: tuple[float, float], colour: str, alpha: float, text: str
) -> float:
    """Draws a part of a ring clockwise from `start` (radians), named where there is room, and gives its end."""
    end = start - 2 * math.pi * share
    steps = max(2, round(160 * share))
    angles = [start + (end - start) * step / steps for step in range(steps + 1)]
    inner, outer = radii
    x = [outer * math.cos(a) for a in angles] + [inner * math.cos(a) for a in reversed(angles)]
    y = [outer * math.sin(a) for a in angles] + [inner * math.sin(a) for a in reversed(angles)]
    axes.fill(x, y, color=colour, alpha=alpha, lw=0)
    if share >= 0.05:
        middle, radius = (start + end) / 2, (inner + outer) / 2
        axes.text(radius * math.cos(middle), radius * math.sin(middle), text, ha="center", va="center", fontsize=7)
    return end


def times(stages: Sequence[tuple[str, float]]) -> Drawing | None:
    """Seconds of each stage, as bars from top to bottom in the order of the run. None without stages."""
    if not stages:
        return None
    unit, name = (60.0, "minutes") if max(seconds for _, seconds in stages) > 120 else (1.0, "seconds")

    def draw(axes: Axes) -> None:
        axes.barh(range(len(stages)), [seconds / unit for _, seconds in stages], color=COLOURS[1], height=0.65)
        axes.set_yticks(range(len(stages)), [stage.replace("_", " ") for stage, _ in stages])
        axes.invert_yaxis()
        axes.set_xlabel(name)
        axes.grid(visible=False, axis="y")

    return Drawing("times", "Time of each stage", draw, 5.4, 0.22 * len(stages) + 0.7)


def tokens(stages: Sequence[tuple[str, Mapping[str, int]]]) -> Drawing | None:
    """Tokens that stages trained on or sampled, as bars; None where none is known."""
    kinds = list(dict.fromkeys(kind for _, counts in stages for kind in counts))
    if not kinds:
        return None

    def draw(axes: Axes) -> None:
        for number, kind in enumerate(kinds):
            left = [sum(counts.get(other, 0) for other in kinds[:number]) / 1000 for _, counts in stages]
            wide = [counts.get(kind, 0) / 1000 for _, counts in stages]
            axes.barh(range(len(stages)), wide, left=left, height=0.65, color=COLOURS[1 + number], label=kind)
        axes.set_yticks(range(len(stages)), [stage.replace("_", " ") for stage, _ in stages])
        axes.invert_yaxis()
        axes.set_xlabel("thousand tokens")
        axes.grid(visible=False, axis="y")
        legend_above(axes)

    return Drawing("tokens", "Tokens of each stage", draw, 5.4, 0.26 * len(stages) + 1.0)


def _largest(parts: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """(value, percent), the rest taken together."""
    found = [(value, 100 * about["share"]) for value, about in parts.items()]
    rest = sum(share for _, share in found[MOST:])
    return [*found[:MOST], *([("others", rest)] if rest else [])]
