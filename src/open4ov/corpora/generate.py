"""Items: single questions by task (`generate`), and conversations for pretraining (`dense`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from PIL import Image

from open4ov.corpora import arithmetic, charts, icons, instruction, looking, pairs, placing, reasoning, scenes, text
from open4ov.corpora.describe import REQUESTS, describe
from open4ov.corpora.item import QA, TASKS, Item, Scene
from open4ov.corpora.splits import SPLITS, split_of
from open4ov.errors import UserError, nearest
from open4ov.sample import Message, Sample, assistant, content_id, user

CHINESE_TASKS = ("naming", "colour", "counting", "reading", "position")

DENSE_MIXTURE = {"grid": 45, "single": 10, "free": 10, "text": 10, "chart": 10, "pair": 5, "words": 10}
"""Weights of the kinds of conversation: scenes, and "words" for arithmetic and instructions without a picture."""
DENSE_LATE_MIXTURE = {"grid": 18, "single": 30, "free": 15, "text": 13, "chart": 5, "pair": 9, "words": 10}
"""The same for the later part of pretraining, when grids have taught the symbols: more of what is learned last."""
DENSE_LATE_DESCRIBED = 0.12
"""Share of the later part's scenes that are described too: the others are asked more, and must be looked at anew."""
DENSE_CHINESE = 0.15  # share of the scenes talked about in Chinese
DENSE_REASONING = 0.4  # chance of a sum about the picture where the scene holds one
DENSE_NO_PICTURE = 0.003
_NO_PICTURE = ("Can you see a picture?", "No, there is no picture here. Please send one.")

_Draw = Callable[[random.Random, str, list[str] | None], Scene]
_DRAW: dict[str, _Draw] = {
    "grid": lambda rng, split, pool: scenes.grid(rng, split, pool=pool),
    "repeated": lambda rng, split, pool: scenes.grid(rng, split, "repeated", pool),
    "digits": lambda rng, split, pool: scenes.grid(rng, split, "digits"),
    "diverse": lambda rng, split, pool: scenes.grid(rng, split, "diverse", pool),
    "single": lambda rng, split, pool: scenes.single(rng, split, pool=pool),
    "icon": lambda rng, split, pool: scenes.single(rng, split, 0.0, pool),
    "free": lambda rng, split, pool: scenes.free(rng, split, pool),
    "text": lambda rng, split, pool: text.text(rng, split),
    "latin": lambda rng, split, pool: text.text(rng, split, rng.choice(("word", "word", "number"))),
    "chinese": lambda rng, split, pool: text.text(rng, split, rng.choice(("chinese", "chinese", "number"))),
    "sum": lambda rng, split, pool: text.text(rng, split, "sum"),
    "chart": lambda rng, split, pool: charts.chart(rng, split),
    "pair": pairs.pair,
    "arithmetic": lambda rng, split, pool: arithmetic.problem(rng, split),
    "instruction": lambda rng, split, pool: instruction.task(rng, split),
}
_TASK_SCENES: dict[str, dict[str, int]] = {
    "naming": {"single": 80, "diverse": 10, "free": 10},
    "colour": {"icon": 40, "grid": 30, "free": 30},
    "counting": {"repeated": 75, "free": 25},
    "reading": {"latin": 80, "digits": 20},
    "position": {"diverse": 65, "free": 35},
    "comparing": {"pair": 1},
    "charts": {"chart": 1},
    "reasoning": {"repeated": 45, "digits": 15, "chart": 20, "sum": 20},
    "arithmetic": {"arithmetic": 1},
    "instruction": {"instruction": 1},
}


def questions(scene: Scene, rng: random.Random, language: str = "en") -> list[QA]:
    """Every kind of question that the scene can answer, one of each, in random wording. language: "en" or "zh"."""
    if scene["kind"] == "none":
        ask = arithmetic.arithmetic if scene["of"] == "arithmetic" else instruction.instruction
        return [ask(scene, rng)] if language == "en" else []
    if scene["kind"] == "pair":
        return pairs.comparing(scene, rng) if language == "en" else []
    found: list[QA] = []
    for ask in (looking.naming, looking.colour, looking.counting, looking.reading, placing.position, looking.charts):
        found += ask(scene, rng, language)
    return found + reasoning.reasoning(scene, rng, language)


def generate(task: str, split: str, count: int, seed: int = 0, language: str = "en", more: int = 0) -> Iterator[Item]:
    """`count` items of one question each; after each, up to `more` items that ask other things of the same picture.

    task: one of TASKS. split: "train", "val" or "test"; compositions are disjoint. language: "zh" for naming, colour,
    counting, reading and position only. Errors: UserError for names that are not known.
    """
    if task not in TASKS:
        raise UserError(f"task {task!r} is not one of the general corpora's{nearest(task, TASKS)}")
    if split not in SPLITS:
        raise UserError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if language not in ("en", "zh") or (language == "zh" and task not in CHINESE_TASKS):
        raise UserError(f"task {task!r} has no questions in language {language!r}; zh has {', '.join(CHINESE_TASKS)}")
    return (item for index in range(count) for item in _about_one(task, split, index, seed, language, more))


def dense(split: str, index: int, seed: int = 0, late: bool = False) -> Item:
    """Conversation number `index`: a full description and two to four questions, in shuffled order. `late`: mostly no
    description, and three to six questions.

    A pure function of its arguments. Pictures go with the first message. sample.task is "dense".
    """
    rng = random.Random(f"dense/{split}/{seed}/{index}")
    if rng.random() < DENSE_NO_PICTURE:
        scene: Scene = {"kind": "none", "of": "no picture", "split": split}
        return _item("dense", split, scene, [_NO_PICTURE], [], "en", f"dense/{seed}/{index}")
    mixture = DENSE_LATE_MIXTURE if late else DENSE_MIXTURE
    kind = rng.choices(list(mixture), list(mixture.values()))[0]
    if kind == "words":
        parts = [_draw(rng.choice(("arithmetic", "instruction")), split, rng) for _ in range(rng.randint(2, 3))]
        turns = [(qa.question, qa.response) for part in parts for qa in questions(part, rng)]
        scene = {"kind": "words", "split": split, "parts": parts}
        return _item("dense", split, scene, turns, [], "en", f"dense/{seed}/{index}")
    scene = _draw(kind, split, rng)
    language = "zh" if rng.random() < DENSE_CHINESE and kind not in ("pair", "chart") else "en"
    described = not late or rng.random() < DENSE_LATE_DESCRIBED
    turns = [(qa.question, qa.response) for qa in _choose(scene, rng, language, (2, 4) if described else (3, 6))]
    rng.shuffle(turns)
    if described or not turns:
        turns.insert(rng.randint(0, len(turns)), (rng.choice(REQUESTS[language]), describe(scene, language)))
    return _item("dense", split, scene, turns, _render(scene, rng), language, f"dense/{seed}/{index}")


def _choose(scene: Scene, rng: random.Random, language: str, counts: tuple[int, int]) -> list[QA]:
    """Short questions, between `counts` of them if there are so many, no two alike; now and then a sum, last."""
    least, most = counts
    pool: dict[tuple[str, str], QA] = {}
    for _ in range(most // 2):
        for qa in questions(scene, rng, language):
            once = qa.task in ("naming", "colour", "reading")  # the same thing in other words would be copied
            pool.setdefault((qa.task, qa.answer if once else qa.question), qa)
    short = [qa for qa in pool.values() if qa.task != "reasoning"]
    sums = [qa for qa in pool.values() if qa.task == "reasoning"]
    chosen = rng.sample(short, min(len(short), rng.randint(least, most)))
    if sums and rng.random() < DENSE_REASONING:
        chosen = [*chosen[: most - 1], sums[0]]
    return chosen


def _draw(kind: str, split: str, rng: random.Random, pool: list[str] | None = None) -> Scene:
    """A scene of the kind whose composition belongs to the split."""
    while True:
        scene = _DRAW[kind](rng, split, pool)
        if split_of(scene) == split:
            return scene


def _about_one(task: str, split: str, index: int, seed: int, language: str, more: int) -> list[Item]:
    """Items about one scene: a question of the task, and up to `more` others."""
    rng = random.Random(f"{task}/{language}/{split}/{seed}/{index}")
    among = dict(_TASK_SCENES[task])
    if task == "reading" and language == "zh":
        among = {"chinese": 80, "digits": 20}
    while True:
        pool = icons.held_out_names() if _tests_held_out(task, split) and rng.random() < 0.5 else None
        scene = _draw(rng.choices(list(among), list(among.values()))[0], split, rng, pool)
        everything = questions(scene, rng, language)
        asked = [qa for qa in everything if qa.task == task]
        if asked:
            break
    first, name = rng.choice(asked), f"{seed}/{index}"
    images = _render(scene, rng)
    others = [qa for qa in everything if qa is not first] if images else []
    chosen = [first, *rng.sample(others, min(more, len(others)))]
    return [
        _question(qa, split, scene, images, language, f"{task}/{name}/{place}" if place else name)
        for place, qa in enumerate(chosen)
    ]


def _question(qa: QA, split: str, scene: Scene, images: list[Image.Image], language: str, name: str) -> Item:
    item = _item(qa.task, split, scene, [(qa.question, qa.response)], images, language, name)
    item.sample.answer, item.sample.aliases = qa.answer, qa.aliases
    return item


def _tests_held_out(task: str, split: str) -> bool:
    return split == "test" and task in ("counting", "position", "comparing")


def _render(scene: Scene, rng: random.Random) -> list[Image.Image]:
    if scene["kind"] == "none":
        return []
    if scene["kind"] == "pair":
        return [image for part in scene["scenes"] for image in _render(part, rng)]
    draw = {"text": text.render, "chart": charts.render}.get(scene["kind"], scenes.render)
    return [draw(scene, rng)]


def _item(
    task: str,
    split: str,
    scene: Scene,
    turns: list[tuple[str, str]],
    images: list[Image.Image],
    language: str,
    name: str,
) -> Item:
    messages: list[Message] = []
    for question, response in turns:
        messages += [user(question, 0 if messages else len(images)), assistant(response)]
    sample = Sample.model_validate(
        {
            "id": content_id("general", task, split, language, name),
            "source": "corpus:general",
            "split": split,
            "task": task,
            "language": language,
            "images": [""] * len(images),
            "messages": messages,
            "scene": scene,
        }
    )
    return Item(sample, images)
