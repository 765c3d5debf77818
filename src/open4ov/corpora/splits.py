"""Which split a composition belongs to: decided by its content, so no composition is ever in two.

The composition is what is in the picture and where (names, colours, cells, values, text), not how it is drawn.
"""

from __future__ import annotations

import hashlib
from typing import Any

from open4ov.corpora.item import Scene

SPLITS = ("train", "val", "test")


def composition(scene: Scene) -> tuple[Any, ...]:
    """What makes two scenes the same composition."""
    kind = scene["kind"]
    if kind == "pair":
        return ("pair", *(composition(part) for part in scene["scenes"]))
    if kind == "text":
        return ("text", *scene["lines"])
    if kind == "chart":
        return ("chart", scene["of"], *scene["values"])
    if kind == "none" and scene["of"] == "arithmetic":
        return ("arithmetic", scene["sign"], scene["a"], scene["b"])
    if kind == "none":
        return ("instruction", scene["do"], *scene["words"], *scene["numbers"])
    things = scene["objects"]
    if kind == "grid":
        placed = [(t["name"], t["colour"], t["row"], t["col"]) for t in things]
        return ("grid", *scene["size"], *placed)
    return (kind, *((t["name"], t.get("colour"), t["x"] // 8, t["y"] // 8) for t in things))


def split_of(scene: Scene) -> str:
    """ "train" (eight tenths), "val" or "test" (one tenth each)."""
    digest = hashlib.sha256(repr(composition(scene)).encode()).digest()
    tenth = int.from_bytes(digest[:4], "big") % 10
    return "test" if tenth == 0 else "val" if tenth == 1 else "train"
