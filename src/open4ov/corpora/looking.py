"""Questions answered by looking: naming, colour, counting, reading, and values of charts (`placing.py`: position).

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


def short(thing: Thing, zh: bool) -> str:
    """Its name, without its colour."""
    return chinese(thing) if zh else thing["name"]


def _aliases(thing: Thing, zh: bool) -> list[str]:
    if zh:
        return [phrase(thing, "zh")] if "colour" in thing else []
    name = thing["name"]
    article = "an" if name[0] in "aeiou" else "a"
    return [f"{article} {name}", *([phrase(thing)] if "colour" in thing else [])]
