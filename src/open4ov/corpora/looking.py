"""Questions answered by looking: naming, colour, counting, reading, position, and values of charts.

All answers come from the scene's annotation alone. In the training split nothing is asked about, or answered with,
the held-out symbols, naming and colour apart.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from open4ov.corpora import icons, palette
from open4ov.corpora.describe import chinese, phrase
from open4ov.corpora.item import QA, Scene

Thing = dict[str, Any]
NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
_PLACES = {
    (0, 0): ("top left", "左上角"),
    (0, 1): ("top right", "右上角"),
    (1, 0): ("bottom left", "左下角"),
    (1, 1): ("bottom right", "右下角"),
}
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "knife": "knives",
    "leaf": "leaves",
    "maple leaf": "maple leaves",
    "computer mouse": "computer mice",
    "wolf": "wolves",
    "man face": "man faces",
}
_ALIKE = ("fish", "sheep", "jellyfish", "deer", "cash", "rice", "grass", "pasta", "salt", "golf", "swim", "yoga")


def plural(name: str) -> str:
    """The English plural of a symbol's name."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    if name in _ALIKE or (name.endswith("s") and not name.endswith(("ss", "us"))):
        return name
    if name.endswith(("ch", "sh", "x", "z", "ss", "us")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def allowed(thing: Thing, scene: Scene) -> bool:
    """Whether the scene's split may count, locate or compare the thing."""
    return scene["split"] != "train" or thing["type"] != "symbol" or thing["name"] not in icons.held_out()


def label(thing: Thing, zh: bool) -> str:
    """How a question calls a thing: "cat", "digit 7", "letter K"."""
    if thing["type"] != "character":
        return chinese(thing) if zh else thing["name"]
    digit = thing["name"].isdigit()
    return (("数字" if digit else "字母") if zh else "digit " if digit else "letter ") + thing["name"]


def called(thing: Thing, language: str) -> str | None:
    """The label of an object of a scene; None for what is none of ours."""
    return label(thing, language == "zh") if thing.get("type") in ("symbol", "character", "drawing") else None


def naming(scene: Scene, rng: random.Random, language: str) -> list[QA]:
    """What the picture shows, or what has a certain colour or place; none where that is not clear."""
    zh = language == "zh"
    things = scene["objects"]
    if not things:
        return []
    if len(things) == 1 and things[0]["type"] != "character":
        name = chinese(things[0]) if zh else things[0]["name"]
        english = ("What is this?", "What object is in the picture?", "Name the object.", "What does the picture show?")
        asked = ("这是什么？", "图中是什么？", "说出图中物体的名称。") if zh else english
        return [QA("naming", rng.choice(asked), name, _aliases(things[0], zh))]
    colours = Counter(thing.get("colour") for thing in things)
    alone = [t for t in things if t["type"] == "symbol" and colours[t["colour"]] == 1]
    if not alone:
        return []
    thing = rng.choice(alone)
    asked = ("{}的物体是什么？",) if zh else ("What is the {} object?", "Name the {} object.", "Which object is {}?")
    colour = palette.CHINESE[thing["colour"]] if zh else thing["colour"]
    return [QA("naming", rng.choice(asked).format(colour), label(thing, zh), _aliases(thing, zh))]


def colour(scene: Scene, rng: random.Random, language: str) -> list[QA]:
    """Which colour something has; none where the name fits several colours."""
    zh = language == "zh"
    if scene["kind"] == "text":
        asked = ("文字是什么颜色？",) if zh else ("What colour is the text?", "What color is the writing?")
        return [QA("colour", rng.choice(asked), palette.CHINESE[scene["colour"]] if zh else scene["colour"])]
    things = [t for t in scene["objects"] if "colour" in t]
    seen: dict[str, set[str]] = {}
    for thing in things:
        seen.setdefault(thing["name"], set()).add(thing["colour"])
    sure = [t for t in things if len(seen[t["name"]]) == 1]
    if not sure:
        return []
    thing = rng.choice(sure)
    name = thing["colour"]
    if len(things) == 1 and rng.random() < 0.5:
        asked = ("它是什么颜色？", "物体是什么颜色？") if zh else ("What colour is it?", "What colour is the object?")
    else:
        asked = ("{}是什么颜色？", "{}的颜色是什么？") if zh else (
            "What colour is the {}?", "What is the colour of the {}?", "What color is the {}?")  # fmt: skip
    answer = palette.CHINESE[name] if zh else name
    aliases = [answer.removesuffix("色")] if zh else []
    return [QA("colour", rng.choice(asked).format(label(thing, zh)), answer, aliases)]


def counting(scene: Scene, rng: random.Random, language: str) -> list[QA]:
    """How many things of a kind or a colour there are, in grids and free scenes."""
    zh, found = language == "zh", list[QA]()
    things = scene["objects"]
    if scene["kind"] not in ("grid", "free"):
        return []
    kinds = {t["name"]: t for t in things if allowed(t, scene)}
    counts = Counter(t["name"] for t in things)
    many = [n for n in kinds if counts[n] > 1]
    if kinds:
        name = rng.choice(many if many and rng.random() < 0.85 else list(kinds))
        thing = kinds[name]
        if zh:
            asked = ("有几个{}？", "图中有多少个{}？")
            question = rng.choice(asked).format(label(thing, True))
        else:
            several = f"{label(thing, False)}s" if thing["type"] == "character" else plural(name)
            asked = ("How many {} are there?", "Count the {}.", "How many {} are in the picture?")
            question = rng.choice(asked).format(several)
        found.append(_number("counting", question, counts[name], zh))
    colours = Counter(t["colour"] for t in things)
    if len(things) > 1 and rng.random() < 0.5 and len(things) < 13:
        name = rng.choice(list(colours))
        question = (
            f"{palette.CHINESE[name]}的东西有几个？"
            if zh
            else rng.choice(("How many {} things are there?", "Count the {} things.")).format(name)
        )
        found.append(_number("counting", question, colours[name], zh))
    elif len(things) < 13:
        question = "一共有几个东西？" if zh else rng.choice(("How many things are there in all?", "Count everything."))
        found.append(_number("counting", question, len(things), zh))
    return found


def reading(scene: Scene, rng: random.Random, language: str) -> list[QA]:
    """What is written: whole, line by line, or a character of a grid."""
    zh = language == "zh"
    if scene["kind"] == "text":
        lines = scene["lines"]
        if len(lines) == 2 and rng.random() < 0.7:
            row = rng.randrange(2)
            question = f"第{'一二'[row]}行写的是什么？" if zh else f"What does the {('first', 'second')[row]} line say?"
            return [QA("reading", question, lines[row])]
        if scene["of"] == "number" and rng.random() < 0.5:
            question = "图中的数字是多少？" if zh else rng.choice(("What number is written?", "Read the number."))
        else:
            question = rng.choice(("图中写的是什么？", "读出文字。")) if zh else rng.choice(
                ("What does the text say?", "Read the text.", "What is written?"))  # fmt: skip
        return [QA("reading", question, " / ".join(lines), [" ".join(lines)] if len(lines) == 2 else [])]
    written = [t for t in scene["objects"] if t["type"] == "character"]
    if not written:
        return []
    digits = [t for t in written if t["name"].isdigit()]
    if len(digits) == 1 and rng.random() < 0.6:
        question = (
            "图中的数字是几？" if zh else rng.choice(("Which digit is in the picture?", "What digit do you see?"))
        )
        return [QA("reading", question, digits[0]["name"])]
    thing = rng.choice(written)
    if scene["kind"] == "grid":
        row, col = thing["row"], thing["col"]
        question = f"第{row}行第{col}列写的是什么？" if zh else rng.choice(
            (f"Read row {row}, column {col}.", f"Which character is in row {row}, column {col}?"))  # fmt: skip
        return [QA("reading", question, thing["name"])]
    return []


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
        return [QA("position", question, _short(thing, zh), [phrase(thing, "zh" if zh else "en")])]
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
        return [QA("position", question, _short(thing, zh), [phrase(thing, "zh" if zh else "en")])]
    thing = rng.choice(known)
    row, col = thing["row"], thing["col"]
    question = f"第{row}行第{col}列是什么？" if zh else f"What is in row {row}, column {col}?"
    return [QA("position", question, _short(thing, zh), [phrase(thing, "zh" if zh else "en")])]


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
    return [QA("position", question, _short(thing, zh), [phrase(thing, "zh" if zh else "en")])]


def charts(scene: Scene, rng: random.Random, language: str) -> list[QA]:
    """Values, the highest and the lowest of a bar or line chart; English only."""
    if scene["kind"] != "chart" or language != "en":
        return []
    labels, values = scene["labels"], scene["values"]
    place = rng.randrange(len(labels))
    asked = ("What is the value of {}?", "How high is {}?", "Read the value of {}.")
    found = [_number("charts", rng.choice(asked).format(labels[place]), values[place], False)]
    word = "bar" if scene["of"] == "bar" else "point"
    for best, adjectives in ((max(values), ("highest", "tallest")), (min(values), ("lowest", "smallest"))):
        if values.count(best) == 1:
            adjective = rng.choice(adjectives)
            found.append(QA("charts", f"Which {word} is the {adjective}?", labels[values.index(best)]))
    one, other = rng.sample(range(len(labels)), 2)
    if values[one] != values[other]:
        yes = values[one] > values[other]
        found.append(QA("charts", f"Is {labels[one]} higher than {labels[other]}?", "yes" if yes else "no"))
    return found


def _number(task: str, question: str, value: int, zh: bool) -> QA:
    word = "零一二三四五六七八九十"[value] if zh and value <= 10 else NUMBER_WORDS[value]
    return QA(task, question, str(value), [word, f"{value}个"] if zh else [word])


def _short(thing: Thing, zh: bool) -> str:
    return chinese(thing) if zh else thing["name"]


def _aliases(thing: Thing, zh: bool) -> list[str]:
    if zh:
        return [phrase(thing, "zh")] if "colour" in thing else []
    name = thing["name"]
    article = "an" if name[0] in "aeiou" else "a"
    return [f"{article} {name}", *([phrase(thing)] if "colour" in thing else [])]
