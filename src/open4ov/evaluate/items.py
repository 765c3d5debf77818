"""The questions of the accuracy suites: which pictures, which words, which answers are right.

All come from the `test` split of the shipped corpora (disjoint from training by composition, rendering and seed), as a
pure function of (count, seed): every model of a run is asked the same things in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image

from open4ov import corpora
from open4ov.corpora import Item, in_car
from open4ov.corpora.generate import CHINESE_TASKS
from open4ov.corpora.in_car.knowledge import Language
from open4ov.corpora.looking import label
from open4ov.sample import Message

GENERAL = ("naming", "colour", "counting", "reading", "position", "comparing", "charts")
TEXT = ("arithmetic", "instruction")
CHINESE_SHARE = 0.2
"""Share of a general suite that is asked in Chinese, where the task has Chinese questions."""

RULES = {
    "reading": "verbatim",
    "instruction": "literal",
    "reasoning": "boxed",
    "in_car_meaning": "sentence",
    "in_car_action": "sentence",
    "in_car_advice": "sentence",
}
"""Task -> scoring rule (`metrics.RULES`); `exact` for the others."""


@dataclass(frozen=True)
class Question:
    """One thing to ask: a conversation that ends with the user's turn, and what counts as right."""

    id: str
    suite: str
    task: str
    language: str
    messages: tuple[Message, ...]
    images: tuple[Image.Image, ...]
    answers: tuple[str, ...]
    rule: str
    others: tuple[str, ...] = ()
    """answers to the same task about other symbols, for the `sentence` rule"""
    objects: frozenset[str] = frozenset()
    """what the picture of a colour question shows, as questions name it"""
    with_picture: str = ""
    """the scoring rule of the same question with its picture, where its task does not name it"""

    @property
    def text(self) -> str:
        """The last thing the user says."""
        return self.messages[-1].text


def general(task: str, count: int, seed: int) -> list[Question]:
    """`count` single-turn questions of one task of `corpora.TASKS`."""
    chinese = round(count * CHINESE_SHARE) if task in CHINESE_TASKS else 0
    english = corpora.generate(task, "test", count - chinese, seed=seed)
    mandarin = corpora.generate(task, "test", chinese, seed=seed, language="zh") if chinese else ()
    return [question(task, item) for item in (*english, *mandarin)]


def vertical(language: Language, count: int, seed: int) -> list[Question]:
    """`count` questions on test renderings of the in-car symbols: each picture once, the tasks in turn."""
    tasks, symbols = in_car.TASKS, len(in_car.load())
    drawn = list(in_car.items("test", -(-count // symbols), seed, [language]))
    everything: dict[str, dict[str, None]] = {}
    for item in drawn:
        everything.setdefault(item.sample.task, {})[item.sample.answer or ""] = None
    chosen: list[Question] = []
    for place in range(count):
        turn = (place + place // symbols) % len(tasks)
        asked = question(f"in_car_{language}", drawn[place * len(tasks) + turn])
        others = tuple(answer for answer in everything[asked.task] if answer not in asked.answers)
        chosen.append(replace(asked, others=others))
    return chosen


def question(suite: str, item: Item) -> Question:
    """The last question of an item's conversation, as a suite asks it."""
    sample = item.sample
    assert sample.answer is not None, f"{sample.id} ({sample.task}) has no reference answer"
    last = max(index for index, message in enumerate(sample.messages) if message.role == "user")
    shown = (sample.scene or {}).get("objects", ()) if suite == "colour" else ()
    return Question(
        id=f"{suite}/{sample.id}",
        suite=suite,
        task=sample.task,
        language=sample.language,
        messages=tuple(sample.messages[: last + 1]),
        images=tuple(item.images),
        answers=(sample.answer, *sample.aliases),
        rule=RULES.get(sample.task, "exact"),
        objects=frozenset(label(thing, sample.language == "zh") for thing in shown),
    )
