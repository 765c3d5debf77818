"""Two pictures to compare. Scene fields: kind "pair", split, scenes (two scenes)."""

from __future__ import annotations

import random
from collections import Counter

from open4ov.corpora import icons, scenes, text
from open4ov.corpora.item import QA, Scene
from open4ov.corpora.looking import allowed, plural

_FIRST = ["the first", "first picture", "the first picture"]
_SECOND = ["the second", "second picture", "the second picture"]


def pair(rng: random.Random, split: str, pool: list[str] | None = None) -> Scene:
    """Two grids with a kind in common, two single objects, or two numbers."""
    draw = rng.random()
    if draw < 0.45:
        common = rng.choice(pool or (icons.trained_names() if split == "train" else icons.names()))
        two = [_counted(rng, split, common) for _ in range(2)]
    elif draw < 0.75:
        pool = pool or (icons.trained_names() if split == "train" else None)
        two = [scenes.single(rng, split, 0.0, pool) for _ in range(2)]
        if rng.random() < 0.35:
            two[1]["objects"][0]["name"] = two[0]["objects"][0]["name"]
        if rng.random() < 0.4 and two[0]["objects"][0]["colour"] in _colours(two[1]):
            two[1]["objects"][0]["colour"] = two[0]["objects"][0]["colour"]
    else:
        two = [text.text(rng, split, "number") for _ in range(2)]
        for scene in two:
            scene["lines"] = scene["lines"][:1]
    return {"kind": "pair", "split": split, "scenes": two, "objects": []}


def comparing(scene: Scene, rng: random.Random) -> list[QA]:
    """Two pictures set against each other: same, different, more, larger."""
    if scene["kind"] != "pair":
        return []
    one, two = scene["scenes"]
    if one["kind"] == "text":
        x, y = int(one["lines"][0]), int(two["lines"][0])
        if x == y:
            return []
        wanted = rng.choice(("larger", "smaller"))
        return [
            _which(
                f"Which picture shows the {wanted} number, the first or the second?", (x > y) == (wanted == "larger")
            )
        ]
    if one["kind"] == "single":
        a, b = one["objects"][0], two["objects"][0]
        found: list[QA] = []
        if allowed(a, scene) and allowed(b, scene):
            found.append(_yes("Is it the same object in both pictures?", a["name"] == b["name"]))
            question = rng.choice(
                ("Is the colour the same in both pictures?", "Do the two objects have the same colour?")
            )
            found.append(_yes(question, a["colour"] == b["colour"]))
        return found
    counts = [Counter(t["name"] for t in part["objects"]) for part in (one, two)]
    known = {t["name"] for part in (one, two) for t in part["objects"] if t["type"] == "symbol" and allowed(t, scene)}
    common = sorted(name for name in known if counts[0][name] and counts[1][name])
    found = []
    differ = [name for name in common if counts[0][name] != counts[1][name]]
    if differ:
        name, wanted = rng.choice(differ), rng.choice(("more", "fewer"))
        more = counts[0][name] > counts[1][name]
        question = f"Which picture has {wanted} {plural(name)}, the first or the second?"
        found.append(_which(question, more == (wanted == "more")))
    colours = [Counter(t["colour"] for t in part["objects"]) for part in (one, two)]
    unequal = sorted(c for c in colours[0] | colours[1] if colours[0][c] != colours[1][c])
    if unequal:
        name = rng.choice(unequal)
        more = colours[0][name] > colours[1][name]
        found.append(_which(f"Which picture has more {name} things, the first or the second?", more))
    if len(common) == 1 and set(counts[0]) & set(counts[1]) == set(common):
        found.append(QA("comparing", "Which object is in both pictures?", common[0]))
    return found


def _counted(rng: random.Random, split: str, common: str) -> Scene:
    """A small grid of `common` (one to six) with other things among them."""
    scene = scenes.grid(rng, split, "repeated", [common])
    others = [thing for thing in scene["objects"] if thing["type"] == "symbol"]
    for thing in others[1 + rng.randrange(6) :]:
        thing["name"] = rng.choice(icons.names())
    return scene


def _colours(scene: Scene) -> list[str]:
    from open4ov.corpora import palette

    return palette.on(scene["background"])


def _which(question: str, first: bool) -> QA:
    return QA("comparing", question, "first" if first else "second", _FIRST if first else _SECOND)


def _yes(question: str, yes: bool) -> QA:
    return QA("comparing", question, "yes" if yes else "no")
