"""Topic matching (paper §2.2.3): coarse over L1 labels, then fine over topics.

Coarse: a model ranks all L1 names of each axis with `Others` as the boundary; the best `top_l1` above it are kept, so
that nothing is forced under a label. Fine: within the kept L1s, the `top_topics` topics of highest cosine similarity
between the image's embedding and the topic's (exact, one matrix product for all images).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open4ov.data.labels import AXES, OTHERS, LabelTree
from open4ov.data.topics import Topic
from open4ov.mllm.answers import Ranking
from open4ov.mllm.ask import Picture, Prompt, Request
from open4ov.sample import Axis

Floats = NDArray[np.float32]
BLOCK = 256  # images scored at once: bounds the score matrix at large topic trees


def request(picture: Picture, tree: LabelTree, annotation: str) -> Request:
    """Asks for a picture's ranking of all L1 labels, *Others* among them, on both axes."""
    labels = {
        axis: [{"name": l1.name, "tags": [list(l2.tags) for l2 in l1.l2]} for l1 in tree.axis(axis)] for axis in AXES
    }
    prompt = Prompt("rank", {"labels": labels, "annotation": annotation})
    return Request("rank", prompt, (picture,), Ranking, lambda answer: objection(answer, tree))


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


def top_k(queries: Floats, keys: Floats, allowed: NDArray[np.bool_], k: int) -> list[list[tuple[int, float]]]:
    """For each of Q queries [Q, D] the k best of N keys [N, D] by cosine among `allowed` [Q, N]: (index, cosine),
    best first.

    Exact; ties go to the lower index. Rows need not be unit vectors; a zero row has cosine 0 with everything.
    """
    if not len(keys):
        return [[] for _ in queries]
    found: list[list[tuple[int, float]]] = []
    keys = _unit(keys)
    for start in range(0, len(queries), BLOCK):
        block = slice(start, start + BLOCK)
        scores = np.where(allowed[block], _unit(queries[block]) @ keys.T, -np.inf)
        place = min(k, scores.shape[1]) - 1
        least = -np.partition(-scores, place, axis=1)[:, place]
        for row, bound in zip(scores, least, strict=True):
            candidates = np.flatnonzero((row >= bound) & np.isfinite(row))
            order = candidates[np.argsort(-row[candidates], kind="stable")][:k]
            found.append([(int(i), float(row[i])) for i in order])
    return found


def fine(
    images: Floats, topics: Sequence[Topic], texts: Floats, coarse: Sequence[dict[Axis, list[str]]], k: int
) -> list[list[tuple[Topic, float]]]:
    """The k topics nearest to each image within its L1 labels: image embeddings [I, D], topic embeddings [T, D]."""
    domains = np.array([topic.domain[0] for topic in topics], dtype=object)
    abilities = np.array([topic.ability[0] for topic in topics], dtype=object)
    allowed = np.zeros((len(coarse), len(topics)), dtype=np.bool_)
    for row, kept in enumerate(coarse):
        allowed[row] = np.isin(domains, kept["domain"]) & np.isin(abilities, kept["ability"])
    return [[(topics[i], score) for i, score in found] for found in top_k(images, texts, allowed, k)]


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms == 0, 1, norms)).astype(np.float32)
