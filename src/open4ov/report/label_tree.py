"""What the report tells of label coverage (paper §2.2, Fig. 3): both axes with pictures, topics and samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AXES = {"domain": "Domains", "ability": "Abilities"}
TOPICS = 12
"""Topics named below a second-level label"""


def axes(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """From data/report.json an entry for each axis: title, branches (name, images, topics, samples, l2), and how many
    of its labels have samples. Empty for a report without coverage (of an older version)."""
    found: list[dict[str, Any]] = []
    for axis, title in AXES.items():
        branches = report.get("coverage", {}).get(axis, [])
        leaves = [leaf for branch in branches for leaf in branch["l2"]]
        if branches:
            found.append(
                {
                    "axis": axis,
                    "title": title,
                    "branches": branches,
                    "labels": len(leaves),
                    "covered": sum(leaf["samples"] > 0 for leaf in leaves),
                    "most": max(1, *(leaf["samples"] for leaf in leaves)) if leaves else 1,
                    "topics": _topics(report) if axis == "ability" else {},
                }
            )
    return found


def _topics(report: Mapping[str, Any]) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """(L1, L2) of the ability axis -> its topics with their samples, the most first. Paths of topics name that axis."""
    by_label: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for path, count in report.get("topics_used", {}).items():
        first, _, rest = path.partition(" ~ ")
        second, _, topic = rest.partition(" ~ ")
        by_label.setdefault((first, second), []).append((topic, count))
    return {label: sorted(topics, key=lambda one: (-one[1], one[0]))[:TOPICS] for label, topics in by_label.items()}
