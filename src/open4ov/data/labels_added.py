"""The shipped label tree with what a recipe adds to it (`data.labels` as a mapping).

A branch whose id the tree has gives its L2 labels to that L1; any other is a new L1, at the axis's end. The version
stays that of the shipped tree, and nothing is frozen: `LabelTree.named` tells such a tree by the digest of its ids.
"""

from __future__ import annotations

from typing import Any

from open4ov.data.labels import AXES, LabelError, LabelTree, checked
from open4ov.recipe_labels import AddedBranch, LabelsSection

WHERE = "data.labels"


def extended(tree: LabelTree, added: LabelsSection) -> LabelTree:
    """The tree with the recipe's labels. Raises `LabelError` with every fault found: ids and names that are there
    already, unknown abilities, a new L1 without a name, names or types for an L1 that has its own."""
    raw: dict[str, Any] = tree.model_dump(mode="json", exclude={"frozen"})
    faults: list[str] = []
    for axis in AXES:
        branches: list[AddedBranch] = getattr(added, axis)
        there = {l1["id"]: l1 for l1 in raw[axis]}
        for branch in branches:
            l2 = [label.model_dump(mode="json") for label in branch.l2]
            if (own := there.get(branch.id)) is not None:
                if branch.name not in (None, own["name"]) or branch.types:
                    faults.append(f"{axis}.{branch.id}: the tree has it, as {own['name']!r}; leave out name and types")
                own["l2"] += l2
            elif branch.name is None:
                faults.append(f"{axis}.{branch.id}: is new and needs a name (the tree has {', '.join(there)})")
            else:
                there[branch.id] = {"id": branch.id, "name": branch.name, "types": branch.types, "l2": l2}
                raw[axis].append(there[branch.id])
    if faults:
        raise LabelError(f"{WHERE}: " + "; ".join(faults))
    return checked(raw, WHERE)
