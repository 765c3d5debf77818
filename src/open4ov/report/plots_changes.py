"""Figures of what stages gave and took: the fate of each question, and paired differences with their intervals."""

# matplotlib leaves its keyword arguments untyped:
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from open4ov.report.drawing import COLOURS, INK, Drawing, legend_above

FATES = {"kept": COLOURS[2], "regained": COLOURS[1], "learned": COLOURS[3], "forgotten": COLOURS[4]}
"""What became of a question, and its colour; the rest was never answered rightly"""


def fates(groups: Mapping[str, Sequence[Mapping[str, int]]], titles: Sequence[str]) -> Drawing | None:
    """A panel for each group of suites, a bar for each model after the base: percent of the questions that it kept,
    regained, learned (upwards), and has forgotten (downwards). None without a trained model."""
    if not groups or len(titles) < 2:
        return None

    def draw(*panels: Axes) -> None:
        for number, (axes, (group, models)) in enumerate(zip(panels, groups.items(), strict=True)):
            for place, counts in enumerate(models):
                total, top = max(1, counts["questions"]), 0.0
                for fate, colour in FATES.items():
                    height = 100 * counts[fate] / total
                    label = fate if number == 0 and place == 0 else None
                    down = fate == "forgotten"
                    axes.bar(place, -height if down else height, 0.72, 0 if down else top, color=colour, label=label)
                    top += 0 if down else height
            axes.axhline(0, color=INK, lw=0.8)
            axes.set_title(group, fontsize=9)
            axes.set_xticks(range(len(titles)), titles, rotation=90, fontsize=7.5)
            axes.grid(visible=False, axis="x")
        low = min(axes.get_ylim()[0] for axes in panels)
        for axes in panels:
            axes.set_ylim(low, 102)
        for axes in panels[1:]:
            axes.tick_params(labelleft=False)
        panels[0].set_ylabel("percent of questions")
        legend_above(panels[0], columns=4)

    return Drawing("changes", "What was kept, learned, forgotten and regained", draw, 5.4, 3.6, panels=len(groups))


Change = tuple[str, Mapping[str, float], str]
"""(title, {score, low, high} in percent points, which is "better": "higher" or "lower")"""


def gains(rows: Sequence[Change]) -> list[Change]:
    """Rows as what is gained by them: where less is better the signs are turned, so that right of zero is better in
    every row, and the title says so."""
    made: list[Change] = []
    for title, found, better in rows:
        if better == "lower":
            turned = {"score": -found["score"], "low": -found["high"], "high": -found["low"]}
            made.append((f"{title} (less)", turned, "higher"))
        else:
            made.append((title, found, better))
    return made


def differences(rows: Sequence[Change], name: str, title: str, labels: tuple[str, str]) -> Drawing | None:
    """From top to bottom dots with intervals about zero; right of it is better (`gains`).

    `labels` say what lies left and right of zero. Green and red where the interval is clear of zero.
    """
    if not rows:
        return None
    gained = gains(rows)

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, lw=1, alpha=0.6)
        for place, (_, found, _) in enumerate(gained):
            score, low, high = (found[key] for key in ("score", "low", "high"))
            colour = COLOURS[2] if low > 0 else COLOURS[4] if high < 0 else COLOURS[0]
            axes.plot([low, high], [place, place], color=colour, lw=2)
            axes.plot([score], [place], marker="o", ms=5, color=colour)
        axes.set_yticks(range(len(gained)), [row[0] for row in gained])
        axes.set_ylim(len(gained) - 0.5, -0.5)
        reach = 1.08 * max(1.0, *(abs(found[key]) for _, found, _ in gained for key in ("low", "high")))
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(f"← {labels[0]}\u2003percent points\u2003{labels[1]} →", fontsize=8)

    return Drawing(name, title, draw, 5.4, 0.24 * len(gained) + 0.7)
