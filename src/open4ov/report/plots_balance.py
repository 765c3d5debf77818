"""The plots of a balance report: shares of labels and volumes of latent classes before and after, and how the number of
classes was chosen."""

# matplotlib leaves its keyword arguments untyped:
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from open4ov.report.drawing import COLOURS, INK, svg_of

BEFORE, AFTER = COLOURS[0], COLOURS[1]


def shares(axis: str, labels: Sequence[Mapping[str, Any]]) -> str:
    """Percent of each label before and after, and a mark where its target is."""

    def draw(axes: Axes) -> None:
        for place, row in enumerate(labels):
            for key, offset, colour in (("before_share", -0.2, BEFORE), ("after_share", 0.2, AFTER)):
                name = key.removesuffix("_share") if place == 0 else None
                axes.barh(place + offset, 100 * (row[key] or 0), height=0.36, color=colour, label=name)
            target = 100 * row["target_share"]
            axes.plot(
                [target, target], [place - 0.42, place + 0.42], color=INK, lw=1.4, label=None if place else "target"
            )
        axes.set_yticks(range(len(labels)), [row["label"] for row in labels])
        axes.invert_yaxis()
        axes.set_xlabel("percent of samples")
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return svg_of(draw, 7.6, 0.34 * len(labels) + 0.9, f"shares {axis}")


def clusters(kind: str, found: Mapping[str, Any]) -> str:
    """Percent of samples in each class before and after; the line is where equal volumes would be."""
    rows = found["clusters"]

    def draw(axes: Axes) -> None:
        for key, offset, colour in (("before", -0.2, BEFORE), ("after", 0.2, AFTER)):
            total = max(1, sum(row[key] for row in rows))
            heights = [100 * row[key] / total for row in rows]
            axes.bar([place + offset for place in range(len(rows))], heights, width=0.38, color=colour, label=key)
        axes.axhline(100 / len(rows), color=INK, lw=1, ls="--", label="equal")
        axes.set_xticks(range(len(rows)), [str(place + 1) for place in range(len(rows))])
        axes.set_xlabel("class")
        axes.set_ylabel("percent of samples")
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return svg_of(draw, 7.6, 2.6, f"clusters {kind}")


def criterion(kind: str, found: Mapping[str, Any]) -> str:
    """BIC and ICL for each number of classes that was tried; lower is better, the ring is what was chosen."""
    curve = found["curve"]

    def draw(axes: Axes) -> None:
        for name, colour in (("bic", COLOURS[1]), ("icl", COLOURS[4])):
            axes.plot(
                [p["classes"] for p in curve], [p[name] for p in curve], marker="o", ms=3, color=colour, label=name
            )
        chosen = next(p for p in curve if p["classes"] == found["classes"])
        axes.plot([chosen["classes"]], [chosen[found["criterion"]]], marker="o", ms=11, mfc="none", color=INK)
        axes.set_xticks([p["classes"] for p in curve])
        axes.set_xlabel("classes")
        axes.set_ylabel("criterion")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return svg_of(draw, 7.6, 2.2, f"criterion {kind}")
