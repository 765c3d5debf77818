"""Built-in questions that only `open4ov eval` asks: several pictures at once, short clips, Chinese text in pictures,
and photographs that were labelled by looking at them.

The nano base has seen neither clips nor photographs, nor more than two pictures at once: these sets say what it cannot
do. Drawn pictures are of the `test` split, as a pure function of (count, seed).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from open4ov import assets, corpora
from open4ov.corpora import icons, palette, scenes
from open4ov.corpora.item import Scene
from open4ov.corpora.splits import split_of
from open4ov.evaluate.items import RULES, Question
from open4ov.evaluate.scores import Row
from open4ov.images import open_image
from open4ov.sample import Message, user, video

ROWS = {
    "several": Row("several pictures", "three or four pictures: which one, and how many of them"),
    "clips": Row("short clips", "six frames: what moves where, and what comes first"),
    "reading_zh": Row("reading Chinese", "Chinese words in a picture, character by character"),
    "photographs": Row("photographs", "real photographs, labelled by looking at them"),
}
FRAMES = 6
"""Of a clip, half a second apart"""
SHORT = "\nAnswer the question using a single word or phrase."
SHORT_ZH = "\n请用一个词或短语回答。"
_ORDER = ("first", "second", "third", "fourth")
_PHOTOGRAPHS = assets.ROOT / "photographs"


def several(count: int, seed: int) -> list[Question]:
    """`count` questions about three or four pictures of one thing each."""
    found: list[Question] = []
    for index in range(count):
        rng = random.Random(f"several/{seed}/{index}")
        parts = [_single(rng) for _ in range(rng.choice((3, 4)))]
        if rng.random() < 0.4:  # the same thing twice, for counting
            parts[1] = {**parts[1], "objects": [{**parts[1]["objects"][0], "name": parts[0]["objects"][0]["name"]}]}
        names = [part["objects"][0]["name"] for part in parts]
        colours = [part["objects"][0]["colour"] for part in parts]
        asked: list[tuple[str, str, tuple[str, ...]]] = []
        for place, (name, colour) in enumerate(zip(names, colours, strict=True)):
            said = (_ORDER[place], f"the {_ORDER[place]}", f"{_ORDER[place]} picture", str(place + 1))
            if names.count(name) == 1:
                asked.append((f"Which picture shows {_a(name)}: the first, second, third or fourth?", *_split(said)))
            if colours.count(colour) == 1:
                asked.append(
                    (f"Which picture shows something {colour}: the first, second, third or fourth?", *_split(said))
                )
        name = rng.choice(names)
        asked.append((f"How many of the pictures show {_a(name)}?", str(names.count(name)), ()))
        question, answer, others = rng.choice(asked)
        pictures = [scenes.render(part, rng) for part in parts]
        found.append(
            _question("several", f"{seed}/{index}", user(question, len(pictures)), pictures, (answer, *others))
        )
    return found


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _split(said: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    return said[0], said[1:]


def clips(count: int, seed: int) -> list[Question]:
    """`count` questions about a clip: where a thing moves, or which of two things is shown first."""
    found: list[Question] = []
    for index in range(count):
        rng = random.Random(f"clips/{seed}/{index}")
        ask = _moving if rng.random() < 0.6 else _in_order
        frames, question, answer = ask(rng)
        times = [number / 2 for number in range(FRAMES)]
        found.append(_question("clips", f"{seed}/{index}", video(question, times), frames, (answer,)))
    return found


def _moving(rng: random.Random) -> tuple[list[Image.Image], str, str]:
    """A thing that crosses the picture in one of four directions."""
    ground, colour, name = _looks(rng)
    where, (dx, dy) = rng.choice([("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))])
    aside = rng.randint(-16, 16)
    frames: list[Image.Image] = []
    for number in range(FRAMES):
        step = (number - (FRAMES - 1) / 2) * 11
        x, y = 48 + dx * step + (aside if dy else 0), 48 + dy * step + (aside if dx else 0)
        frames.append(_frame(ground, name, colour, round(x), round(y)))
    return frames, f"Which way does the {name} move: left, right, up or down?", where


def _in_order(rng: random.Random) -> tuple[list[Image.Image], str, str]:
    """Two things after each other."""
    ground, colour, name = _looks(rng)
    other = rng.choice([each for each in icons.names() if each != name])
    frames = [_frame(ground, name if number < FRAMES // 2 else other, colour, 48, 48, 72) for number in range(FRAMES)]
    wanted = rng.choice(("first", "last"))
    two = [name, other]
    rng.shuffle(two)
    question = f"Which is shown {wanted}, the {two[0]} or the {two[1]}?"
    return frames, question, name if wanted == "first" else other


def _looks(rng: random.Random) -> tuple[str, str, str]:
    ground = palette.background(rng)
    return ground, rng.choice(palette.on(ground)), rng.choice(icons.names())


def _frame(ground: str, name: str, colour: str, x: int, y: int, pixels: int = 36) -> Image.Image:
    image = Image.new("RGB", (96, 96), palette.BACKGROUNDS[ground])
    ink = icons.mask(name, pixels)
    image.paste(palette.COLOURS[colour], (x - ink.width // 2, y - ink.height // 2), ink)
    return image


def _single(rng: random.Random) -> Scene:
    while True:
        scene = scenes.single(rng, "test", 0.0)
        if split_of(scene) == "test":
            return scene


def reading_zh(count: int, seed: int) -> list[Question]:
    """`count` questions that ask, in Chinese, what is written in a picture."""
    return [
        Question(
            id=f"reading_zh/{item.sample.id}",
            suite="reading_zh",
            task="reading",
            language="zh",
            messages=tuple(item.sample.messages[:1]),
            images=tuple(item.images),
            answers=(item.sample.answer or "", *item.sample.aliases),
            rule=RULES["reading"],
        )
        for item in corpora.generate("reading", "test", count, seed=seed, language="zh")
    ]


@cache
def labelled() -> list[dict[str, Any]]:
    """The photographs with their questions, as `photographs.yaml` has them."""
    return yaml.safe_load((_PHOTOGRAPHS / "photographs.yaml").read_text(encoding="utf-8"))


def photographs(count: int, seed: int) -> list[Question]:
    """The first `count` questions about photographs, taken from each in turn; there are no more than `labelled` has."""
    by_picture = [[(entry, each) for each in entry["questions"]] for entry in labelled()]
    longest = max(map(len, by_picture))
    order = [of[turn] for turn in range(longest) for of in by_picture if turn < len(of)]
    return [_photograph(entry, each) for entry, each in order[:count]]


def _photograph(entry: dict[str, Any], each: dict[str, Any]) -> Question:
    chinese = bool(each.get("zh"))
    name = f"{Path(entry['file']).stem}/{entry['questions'].index(each)}"
    rule = {"yes_no": "yes_no", "counting": "number"}.get(each["kind"], "exact")
    asked = user(each["ask"] + (SHORT_ZH if chinese else SHORT), 1)
    answers = (each["answer"], *each.get("aliases", ()))
    found = _question("photographs", name, asked, [_picture(entry["file"])], answers, rule, each["kind"])
    return replace(found, language="zh") if chinese else found


@cache
def _picture(name: str) -> Image.Image:
    return open_image(_PHOTOGRAPHS / name)


def _question(
    suite: str,
    name: str,
    asked: Message,
    pictures: list[Image.Image],
    answers: tuple[str, ...],
    rule: str = "exact",
    task: str = "",
) -> Question:
    return Question(
        id=f"{suite}/{name}",
        suite=suite,
        task=task or suite,
        language="en",
        messages=(asked,),
        images=tuple(pictures),
        answers=answers,
        rule=rule,
    )


SUITES: dict[str, Callable[[int, int], list[Question]]] = {
    "several": several,
    "clips": clips,
    "reading_zh": reading_zh,
    "photographs": photographs,
}
