"""Topic matching (paper §2.2.3): coarse over L1 labels, then fine over topics.

Coarse: a model ranks all L1 names of each axis with `Others` as the boundary; the best `top_l1` above it are kept, so
that nothing is forced under a label. Fine: within the kept L1s, the `top_topics` topics of highest cosine similarity
between the image's embedding and the topic's (exact; nearest.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from open4ov.data.agreement import interval
from open4ov.data.labels import AXES, L1, OTHERS, LabelTree
from open4ov.data.nearest import Floats, Keys
from open4ov.data.topics import Topic
from open4ov.errors import UserError
from open4ov.mllm.answers import Ranking
from open4ov.mllm.ask import Picture, Prompt, Request
from open4ov.sample import Axis

Named = dict[str, list[dict[str, Any]]]
"""Axis → the L1 labels to rank, as `named` lays them out"""


def request(picture: Picture, tree: LabelTree, annotation: str, labels: Named | None = None) -> Request:
    """Asks for a picture's ranking of all L1 labels, *Others* among them, on both axes. `labels`: `named(tree)`, where
    it is at hand: laid out once for many pictures."""
    prompt = Prompt("rank", {"labels": named(tree) if labels is None else labels, "annotation": annotation})
    return Request("rank", prompt, (picture,), Ranking, lambda answer: objection(answer, tree))


def named(tree: LabelTree) -> Named:
    """Axis → the L1 labels to rank, as `_entry` has them."""
    return {axis: [_entry(l1) for l1 in tree.axis(axis)] for axis in AXES}


def _entry(l1: L1) -> dict[str, Any]:
    """An L1 label with its L2s: the prompt reads the name, the catalog the tags, an embedder the rest."""
    l2 = [{"name": l2.name, "things": list(l2.things), "abilities": list(l2.abilities)} for l2 in l1.l2]
    return {"id": l1.id, "name": l1.name, "tags": [list(l2.tags) for l2 in l1.l2], "l2": l2}


def objection(answer: dict[str, Any], tree: LabelTree) -> str | None:
    """What is wrong with a ranking: a label that is not on the list, one given twice, no `Others`. None: nothing."""
    for axis in AXES:
        known = {name.casefold() for name in (*tree.names(axis), OTHERS)}
        given = [name.strip().casefold() for name in answer[axis]]
        if not set(given) <= known:
            return f"{axis}: {len(set(given) - known)} of the labels are not on the list; use the names as given"
        if len(set(given)) < len(given):
            return f"{axis}: a label is given twice; give each once"
        if OTHERS.casefold() not in given:
            return f"{axis}: {OTHERS} is missing, which is the boundary"
    return None


def above_others(ranking: Sequence[str], names: Iterable[str], top: int) -> list[str]:
    """The first `top` known names above `Others`, each once. Names that are not in the tree are passed over.

    A ranking without `Others` draws no boundary, so nothing is known to be above it: none is kept.
    """
    known = {name.casefold(): name for name in names}
    kept: list[str] = []
    for given in ranking:
        if given.strip().casefold() == OTHERS.casefold():
            return kept[:top]
        name = known.get(given.strip().casefold())
        if name is not None and name not in kept:
            kept.append(name)
    return []


def coarse(answer: dict[str, Any], tree: LabelTree, top: int) -> dict[Axis, list[str]]:
    """The L1 labels that an answer to `request` ranks above *Others*, at most `top` an axis."""
    return {axis: above_others(answer[axis], tree.names(axis), top) for axis in AXES}


def faults(answer: dict[str, Any], tree: LabelTree) -> list[str]:
    """What is wrong with a ranking: unknown names, names ranked twice, names left out, no boundary. Coarse matching
    reads over the first three; they are counted, since they tell how well a model ranks."""
    found: list[str] = []
    for axis in AXES:
        given = [name.strip().casefold() for name in answer[axis]]
        known = {name.casefold() for name in tree.names(axis)}
        boundary = OTHERS.casefold()
        if boundary not in given:
            found.append(f"{axis}: no {OTHERS}")
        found += [f"{axis}: unknown label"] * len(set(given) - known - {boundary})
        found += [f"{axis}: ranked twice"] * (len(given) - len(set(given)))
        found += [f"{axis}: left out"] * len(known - set(given))
    return found


def overlap(found: Sequence[Sequence[str]], annotated: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The paper's measure of coarse matching: an image is valid if its kept L1 labels and the annotated ones (two or
    three a person gave it) have one in common; 89.7 % in the paper.

    Gives `images`, `valid`, `share` (None for no images) and its 95 % interval by Wilson. Names compare without case.
    Raises `UserError` for lists of unequal length and for an image without annotated labels.
    """
    if len(found) != len(annotated):
        raise UserError(f"{len(found)} matched images and {len(annotated)} annotated ones cannot be compared")
    bare = [row for row, names in enumerate(annotated) if not names]
    if bare:
        raise UserError(f"image {bare[0]} (from 0) has no annotated labels")
    pairs = zip(found, annotated, strict=True)
    valid = sum(bool({a.casefold() for a in kept} & {b.casefold() for b in right}) for kept, right in pairs)
    return {"images": len(found), "valid": valid, **interval(valid, len(found))}


def fine(
    images: Floats, topics: Sequence[Topic], texts: Floats, coarse: Sequence[dict[Axis, list[str]]], k: int
) -> list[list[tuple[Topic, float]]]:
    """The k topics nearest to each image within its L1 labels: image embeddings [I, D], topic embeddings [T, D]."""
    if not topics:
        return [[] for _ in coarse]
    pairs = {pair: n for n, pair in enumerate(dict.fromkeys((t.domain[0], t.ability[0]) for t in topics))}
    groups = np.array([pairs[topic.domain[0], topic.ability[0]] for topic in topics], dtype=np.int64)
    allowed = np.zeros((len(coarse), len(pairs)), dtype=np.bool_)
    for row, kept in enumerate(coarse):
        for (domain, ability), number in pairs.items():
            allowed[row, number] = domain in kept["domain"] and ability in kept["ability"]
    found, scores = Keys(texts, groups).nearest(images, allowed, k)
    return [
        [(topics[i], float(score)) for i, score in zip(row, values, strict=True) if i >= 0]
        for row, values in zip(found.tolist(), scores, strict=True)
    ]
