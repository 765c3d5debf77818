"""How the label tree is covered: which labels have how many images, topics and samples, and what fell to *Others*."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from open4ov.data.labels import AXES, LabelTree
from open4ov.data.topics import Topic
from open4ov.data.working import Counts, add
from open4ov.sample import Axis, Sample

Kept = Mapping[Axis, Sequence[str]]
"""Axis → the L1 names that coarse matching kept for an image."""


def coverage(
    tree: LabelTree,
    coarse: Sequence[tuple[str, Kept]],
    topics: Iterable[Topic],
    samples: Iterable[Sample],
) -> dict[str, Any]:
    """Counts by axis, L1 and L2, and the images without a label above *Others*.

    `coarse`: (image id, L1 names kept) of every image that was ranked. An L1 counts the images that were matched to
    it, an L2 those that a sample of it is about; an image may count under several. Samples of an image lie together.
    """
    return figures(tree, count_images(coarse), topics, count_samples(samples))


def count_images(coarse: Sequence[tuple[str, Kept]]) -> Counts:
    """`images`: axis → L1 → images; `others`: those with no label above *Others* on some axis. Adds up over chunks."""
    found: Counts = {"images": {axis: {} for axis in AXES}, "others": []}
    for name, kept in coarse:
        add(found["images"], {axis: dict.fromkeys(kept[axis], 1) for axis in AXES})
        if axes := [axis for axis in AXES if not kept[axis]]:
            found["others"].append({"image": name, "axes": axes})
    return found


def count_samples(samples: Iterable[Sample]) -> Counts:
    """axis → L1 → L2 → `samples`, and `images` that they are about. Adds up over chunks."""
    found: Counts = {axis: {} for axis in AXES}
    of: list[str] | None = None
    about: set[tuple[str, str, str, str]] = set()
    for sample in samples:
        if sample.images != of:
            of, about = sample.images, set()
        for label in sample.labels:
            if label.l2 is not None:
                new = {(label.axis, label.l1, label.l2, sha) for sha in sample.images} - about
                about |= new
                add(found, {label.axis: {label.l1: {label.l2: {"samples": 1, "images": len(new)}}}})
    return found


def figures(
    tree: LabelTree, images: Mapping[str, Any], topics: Iterable[Topic], samples: Mapping[str, Any]
) -> dict[str, Any]:
    """`coverage` of what was counted."""
    branches: dict[Axis, Counter[tuple[str, str]]] = {axis: Counter() for axis in AXES}
    for topic in topics:
        branches["domain"][topic.domain] += 1
        branches["ability"][topic.ability] += 1
    found: dict[str, Any] = {}
    for axis in AXES:
        rows: list[dict[str, Any]] = []
        for l1 in tree.axis(axis):
            made = samples.get(axis, {}).get(l1.name, {})
            below: list[dict[str, Any]] = [
                {
                    "id": l2.id,
                    "name": l2.name,
                    "images": made.get(l2.name, {}).get("images", 0),
                    "topics": branches[axis][l1.name, l2.name],
                    "samples": made.get(l2.name, {}).get("samples", 0),
                }
                for l2 in l1.l2
            ]
            total = {
                "images": images.get("images", {}).get(axis, {}).get(l1.name, 0),
                "topics": sum(low["topics"] for low in below),
                "samples": sum(low["samples"] for low in below),
            }
            rows.append({"id": l1.id, "name": l1.name, **total, "l2": below})
        found[axis] = rows
    found["others"] = images.get("others", [])
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
