"""How the label tree is covered: which labels have how many images, topics and samples, and what fell to *Others*."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from open4ov.data.labels import AXES, LabelTree
from open4ov.data.topics import Topic
from open4ov.sample import Axis, Sample

Kept = Mapping[Axis, Sequence[str]]
"""Axis → the L1 names that coarse matching kept for an image."""


def coverage(
    tree: LabelTree,
    coarse: Sequence[tuple[str, Kept]],
    topics: Sequence[Topic],
    samples: Sequence[Sample],
) -> dict[str, Any]:
    """Counts by axis, L1 and L2, and the images without a label above *Others*.

    `coarse`: (image id, L1 names kept) of every image that was ranked. An L1 counts the images that were matched to
    it, an L2 those that a sample of it is about; an image may count under several.
    """
    found: dict[str, Any] = {}
    for axis in AXES:
        images = Counter(name for _, kept in coarse for name in set(kept[axis]))
        branches = Counter(topic.domain if axis == "domain" else topic.ability for topic in topics)
        made: Counter[tuple[str, str]] = Counter()
        about: dict[tuple[str, str], set[str]] = defaultdict(set)
        for sample in samples:
            for label in sample.labels:
                if label.axis == axis and label.l2 is not None:
                    made[label.l1, label.l2] += 1
                    about[label.l1, label.l2].update(sample.images)
        rows: list[dict[str, Any]] = []
        for l1 in tree.axis(axis):
            below = [
                {
                    "id": l2.id,
                    "name": l2.name,
                    "images": len(about[l1.name, l2.name]),
                    "topics": branches[l1.name, l2.name],
                    "samples": made[l1.name, l2.name],
                }
                for l2 in l1.l2
            ]
            total = {
                "images": images[l1.name],
                "topics": sum(branches[l1.name, l2.name] for l2 in l1.l2),
                "samples": sum(made[l1.name, l2.name] for l2 in l1.l2),
            }
            rows.append({"id": l1.id, "name": l1.name, **total, "l2": below})
        found[axis] = rows
    others = [{"image": name, "axes": [a for a in AXES if not kept[a]]} for name, kept in coarse]
    found["others"] = [entry for entry in others if entry["axes"]]
    return found


def gaps(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Axis → the ids of L1 and L2 labels that no image reached."""
    return {
        axis: [node["id"] for row in found[axis] for node in (row, *row["l2"]) if not node["images"]] for axis in AXES
    }


def text(found: Mapping[str, Any]) -> str:
    """The report for a terminal: a line a label, then what fell to Others and what no image reached."""
    lines = [f"{'images':>8} {'topics':>8} {'samples':>8}  label"]
    for axis in AXES:
        lines.append(axis)
        for row in found[axis]:
            for depth, node in ((1, row), *((2, low) for low in row["l2"])):
                counts = " ".join(f"{node[what]:>8}" for what in ("images", "topics", "samples"))
                lines.append(f"{counts}  {'  ' * depth}{node['name']} ({node['id']})")
    others = found["others"]
    lines.append(f"{len(others)} images had no label above Others on an axis")
    lines += [f"  {entry['image']}: {', '.join(entry['axes'])}" for entry in others[:20]]
    if len(others) > 20:
        lines.append(f"  ... and {len(others) - 20} more in the report")
    for axis, ids in gaps(found).items():
        lines.append(f"{axis}: no image reached {len(ids)} labels{': ' + ', '.join(ids[:10]) if ids else ''}")
    return "\n".join(lines)
