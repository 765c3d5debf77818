"""Questions about where something is: beside or above another thing, in a cell of a grid, or at an end.

As in `looking.py` all answers come from the scene's annotation alone, and nothing is asked about held-out symbols.
"""

from __future__ import annotations

import random
from collections import Counter

from open4ov.corpora.describe import phrase
from open4ov.corpora.item import QA, Scene
from open4ov.corpora.looking import Thing, allowed, label, short

_PLACES = {
    (0, 0): ("top left", "左上角"),
    (0, 1): ("top right", "右上角"),
    (1, 0): ("bottom left", "左下角"),
    (1, 1): ("bottom right", "右下角"),
}


def position(scene: Scene, rng: random.Random, language: str) -> list[QA]:
    """Where something is: left, right, above, below, a cell of a grid, an extreme."""
    if scene["kind"] not in ("grid", "free"):
        return []
    counts = Counter(t["name"] for t in scene["objects"])
    known = [t for t in scene["objects"] if allowed(t, scene)]
    alone = [t for t in known if counts[t["name"]] == 1]
    found = _relation(scene, alone, rng, language == "zh")
    return found + (_cell if scene["kind"] == "grid" else _extreme)(scene, known, alone, rng, language == "zh")


def _relation(scene: Scene, alone: list[Thing], rng: random.Random, zh: bool) -> list[QA]:
    if len(alone) < 2:
        return []
    one, other = rng.sample(alone, 2)
    grid = scene["kind"] == "grid"
    across = one["col"] - other["col"] if grid else one["x"] - other["x"]
    down = one["row"] - other["row"] if grid else one["y"] - other["y"]
    least = 1 if grid else 12
    ways: list[QA] = []
    a, b = label(one, zh), label(other, zh)
    if abs(across) >= least:
        answer = ("左边" if across < 0 else "右边") if zh else "left" if across < 0 else "right"
        if zh:
            question = f"{a}在{b}的左边还是右边？"
        else:
            wording = ("Is the {} left or right of the {}?", "Is the {} to the left or to the right of the {}?")
            question = rng.choice(wording).format(a, b)
        ways.append(QA("position", question, answer, [answer[0]] if zh else []))
    if abs(down) >= least:
        answer = ("上方" if down < 0 else "下方") if zh else "above" if down < 0 else "below"
        question = f"{a}在{b}的上方还是下方？" if zh else f"Is the {a} above or below the {b}?"
        ways.append(QA("position", question, answer, [answer[0], answer[0] + "面"] if zh else []))
    return [rng.choice(ways)] if ways else []


def _cell(scene: Scene, known: list[Thing], alone: list[Thing], rng: random.Random, zh: bool) -> list[QA]:
    if not known:
        return []
    cols, rows = scene["size"][0] // 32, scene["size"][1] // 32
    draw = rng.random()
    if draw < 0.3 and alone:
        thing = rng.choice(alone)
        if rows > 1 and (cols == 1 or rng.random() < 0.5):
            question = "{}在第几行？" if zh else "In which row is the {}?"
            return [QA("position", question.format(label(thing, zh)), str(thing["row"]))]
        if cols > 1:
            question = "{}在第几列？" if zh else "In which column is the {}?"
            return [QA("position", question.format(label(thing, zh)), str(thing["col"]))]
    corners = [t for t in known if t["row"] in (1, rows) and t["col"] in (1, cols)]
    if draw < 0.55 and corners and rows > 1 and cols > 1:
        thing = rng.choice(corners)
        place = _PLACES[int(thing["row"] == rows), int(thing["col"] == cols)][zh]
        question = (
            f"{place}是什么？" if zh else rng.choice((f"What is at the {place}?", f"Which object is at the {place}?"))
        )
        return [QA("position", question, short(thing, zh), [phrase(thing, "zh" if zh else "en")])]
    neighbours = [
        (a, b, "right" if b["col"] > a["col"] else "below")
        for a in alone
        for b in known
        if (b["row"] - a["row"], b["col"] - a["col"]) in ((0, 1), (1, 0))
    ]
    if draw < 0.75 and neighbours:
        anchor, thing, side = rng.choice(neighbours)
        if zh:
            question = f"{label(anchor, zh)}的{'右边' if side == 'right' else '下面'}是什么？"
        else:
            question = f"What is {'right of' if side == 'right' else 'below'} the {label(anchor, zh)}?"
        return [QA("position", question, short(thing, zh), [phrase(thing, "zh" if zh else "en")])]
    thing = rng.choice(known)
    row, col = thing["row"], thing["col"]
    question = f"第{row}行第{col}列是什么？" if zh else f"What is in row {row}, column {col}?"
    return [QA("position", question, short(thing, zh), [phrase(thing, "zh" if zh else "en")])]


def _extreme(scene: Scene, known: list[Thing], alone: list[Thing], rng: random.Random, zh: bool) -> list[QA]:
    things = scene["objects"]
    ends: list[tuple[str, str, Thing]] = []
    for english, han, axis, sign in (("leftmost", "最左边", "x", 1), ("rightmost", "最右边", "x", -1),
                                     ("highest", "最上面", "y", 1), ("lowest", "最下面", "y", -1)):  # fmt: skip
        order = sorted(things, key=lambda t, axis=axis, sign=sign: sign * t[axis])
        if len(order) > 1 and abs(order[0][axis] - order[1][axis]) >= 6 and allowed(order[0], scene):
            ends.append((english, han, order[0]))
    if not ends:
        return []
    english, han, thing = rng.choice(ends)
    question = (
        f"{han}的是什么？" if zh else rng.choice((f"What is the {english} object?", f"Which object is {english}?"))
    )
    return [QA("position", question, short(thing, zh), [phrase(thing, "zh" if zh else "en")])]
