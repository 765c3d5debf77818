"""L2 expansion by a model, under labels that stay decoupled (paper §2.2.2, step 2).

The role `labels` is asked once for each L1: it sees what is there and what the other L1s cover, and proposes more. A
proposal that says what an accepted label of the axis says already (by its words, or by the cosine of the embeddings)
is merged into it and listed; it is never dropped in silence. Nothing enters the tree here: labels_review.py lays the
proposals before a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from open4ov.data.labels import AXES, L1, OTHERS, LabelTree
from open4ov.data.wording import Embedder, cosines, key
from open4ov.mllm.answers import Expansion, NewLabel
from open4ov.mllm.ask import Asker, Prompt, Request
from open4ov.sample import Axis

LIMIT = 12  # labels asked for an L1
LIKE = 0.85
"""Cosine of two names from which they count as near-synonyms. With the embedded embedder this is shared spelling only;
a real text model in `data.embedder` also finds synonyms, at its own scale."""


@dataclass(frozen=True)
class Proposed:
    """An L2 label that a model proposes; `l1` is an id, `id` its own as the tree would have it."""

    axis: Axis
    l1: str
    id: str
    name: str
    description: str = ""
    things: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Merged:
    """A proposal that became part of the label `into` (an id), and why."""

    axis: Axis
    l1: str
    name: str
    into: str
    reason: str


@dataclass
class Expanded:
    """What became of an expansion: labels to decide about, near-synonyms merged, and what could not be used."""

    proposed: list[Proposed] = field(default_factory=list["Proposed"])
    merged: list[Merged] = field(default_factory=list["Merged"])
    refused: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


def expand(
    asker: Asker, tree: LabelTree, embed: Embedder, only: Iterable[str] = (), limit: int = LIMIT, like: float = LIKE
) -> Expanded:
    """Proposals under each L1 of both axes, or under the L1 ids `only` (as `axis:id`), in the tree's order.

    Raises `UserError` when the catalog would have to propose.
    """
    asker.require_model("labels", "leave out --recipe: then the review holds the tree as it is")
    chosen = set(only)
    asked: list[tuple[Axis, L1]] = [
        (axis, l1) for axis in AXES for l1 in tree.axis(axis) if not chosen or f"{axis}:{l1.id}" in chosen
    ]
    requests = [
        Request(
            "labels",
            Prompt(
                "labels",
                {
                    "axis": axis,
                    "l1": l1.name,
                    "present": [l2.name for l2 in l1.l2],
                    "others": [other.name for other in tree.axis(axis) if other.id != l1.id],
                    "abilities": [ability.id for ability in tree.ability],
                    "limit": limit,
                },
            ),
            (),
            Expansion,
        )
        for axis, l1 in asked
    ]
    result = Expanded()
    raw: list[Proposed] = []
    for (axis, l1), answer in zip(asked, asker.ask_many(requests), strict=True):
        if not isinstance(answer, dict):
            result.refused.append({"label": f"{axis}:{l1.id}", "name": "", "reason": str(answer)})
            continue
        for entry in Expansion.model_validate(answer).labels[:limit]:
            made = _proposal(tree, axis, l1.id, entry)
            if isinstance(made, str):
                result.refused.append({"label": f"{axis}:{l1.id}", "name": entry.name, "reason": made})
            else:
                raw.append(made)
    for axis in AXES:
        kept, merged = decouple(tree, axis, [one for one in raw if one.axis == axis], embed, like)
        result.proposed += kept
        result.merged += merged
    return result


def decouple(
    tree: LabelTree, axis: Axis, proposals: Sequence[Proposed], embed: Embedder, like: float = LIKE
) -> tuple[list[Proposed], list[Merged]]:
    """Proposals that are new on the axis, in their order, and those that say what an earlier label says.

    Labels of the tree come first, L1 and L2 of every branch; then each proposal that was kept.
    """
    present = [(node.id, node.name) for l1 in tree.axis(axis) for node in (l1, *l1.l2)]
    if not proposals:
        return [], []
    names = [name for _, name in present] + [one.name for one in proposals]
    likeness = cosines(embed, names)
    words = {key(name): row for row, (_, name) in reversed(list(enumerate(present)))}
    ids = [name for name, _ in present] + [one.id for one in proposals]
    rows = list(range(len(present)))
    taken = {name for name, _ in present} | {
        old.partition(":")[2] for old in tree.retired if old.startswith(f"{axis}:")
    }
    kept: list[Proposed] = []
    merged: list[Merged] = []
    for row, one in enumerate(proposals, start=len(present)):
        same = words.get(key(one.name))
        nearest = max(rows, key=lambda other: (float(likeness[row, other]), -other))
        if same is not None:
            merged.append(Merged(axis, one.l1, one.name, ids[same], f"the words of {names[same]!r}"))
        elif float(likeness[row, nearest]) >= like:
            reason = f"cosine {float(likeness[row, nearest]):.2f} with {names[nearest]!r}"
            merged.append(Merged(axis, one.l1, one.name, ids[nearest], reason))
        else:
            free = _free(one.id, taken)
            taken.add(free)
            ids[row] = free
            kept.append(Proposed(axis, one.l1, free, one.name, one.description, one.things, one.abilities))
            words[key(one.name)] = row
            rows.append(row)
    return kept, merged


def _proposal(tree: LabelTree, axis: Axis, l1: str, entry: NewLabel) -> Proposed | str:
    """The proposal, or why it cannot be one."""
    name = " ".join(entry.name.split())
    if not name or "~" in name or ";" in name:
        return "a name must not be empty, nor hold '~' or ';'"
    if name.casefold() == OTHERS.casefold():
        return f"{OTHERS!r} is the matcher's boundary"
    slug = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")
    if not slug or not slug[0].isalpha():
        return "the name gives no id: it needs Latin letters, beginning with one"
    if axis == "ability":
        return Proposed(axis, l1, f"{l1}.{slug}", name, entry.description.strip())
    known = [ability.id for ability in tree.ability if ability.id in set(entry.abilities)]
    if not known:
        return "names no ability that the tree has"
    things = tuple(dict.fromkeys(" ".join(thing.split()) for thing in entry.things if thing.strip()))
    return Proposed(axis, l1, f"{l1}.{slug}", name, entry.description.strip(), things, tuple(known))


def _free(wanted: str, taken: set[str]) -> str:
    """The id, with a number where it is taken already."""
    return next(name for name in (wanted, *(f"{wanted}_{n}" for n in range(2, len(taken) + 3))) if name not in taken)
