"""Hands out the in-car pictures: bare, for data construction, or with one question each."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from itertools import islice
from typing import Literal

from open4ov.corpora.in_car.knowledge import Language, load
from open4ov.corpora.in_car.questions import TASKS, questions, scene
from open4ov.corpora.in_car.render import render
from open4ov.corpora.item import QA, Item
from open4ov.sample import Sample, assistant, content_id, user

Split = Literal["train", "val", "test"]
SOURCE = "in_car"


def pictures(split: Split, per_symbol: int, seed: int = 0, only: Container[str] | None = None) -> Iterator[Item]:
    """`per_symbol` pictures of each symbol (of those in `only`, if given), without messages; the scene holds all facts.
    Round by round, so that the first pictures already cover every symbol."""
    symbols = [symbol for symbol in load() if only is None or symbol.id in only]
    for index in range(per_symbol):
        for symbol in symbols:
            yield Item(
                Sample(
                    id=content_id(SOURCE, split, symbol.id, index, seed),
                    source=SOURCE,
                    split=split,
                    task=SOURCE,
                    images=[""],
                    scene=scene(symbol, split),
                ),
                [render(symbol, split, index, seed)],
            )


def items(
    split: Split,
    per_symbol: int,
    seed: int = 0,
    languages: Sequence[Language] = ("en", "zh"),
    tasks: Sequence[str] = TASKS,
) -> Iterator[Item]:
    """Each of those pictures, asked once for each language and task: single-turn samples with answer and aliases.

    Any `len(load())` items from the start on hold every symbol once, and tasks and languages evenly, so that the first
    few hundred are a fair draw.
    """
    wanted: list[tuple[Language, str]] = [(language, task) for task in tasks for language in languages]
    count = len(load())
    shown = pictures(split, per_symbol, seed)
    while batch := list(islice(shown, count)):
        asked = [_ask(picture, languages) for picture in batch]
        for turn in range(len(wanted)):
            for place, (picture, questions_of) in enumerate(zip(batch, asked, strict=True)):
                language, task = wanted[(turn + place) % len(wanted)]
                yield _item(picture, language, questions_of[language, task])


def _ask(picture: Item, languages: Sequence[Language]) -> dict[tuple[Language, str], QA]:
    base = picture.sample
    assert base.scene is not None
    found: dict[tuple[Language, str], QA] = {}
    for language in languages:
        rng = random.Random(f"open4ov/in_car/questions/{base.id}/{language}")
        for qa in questions(base.scene, rng, language):
            found[language, qa.task] = qa
    return found


def _item(picture: Item, language: Language, qa: QA) -> Item:
    fields = {
        "id": content_id(picture.sample.id, language, qa.task),
        "task": qa.task,
        "language": language,
        "messages": [user(qa.question, images=1), assistant(qa.response)],
        "answer": qa.answer,
        "aliases": qa.aliases,
    }
    return Item(picture.sample.model_copy(update=fields), picture.images)


def asked(picture: Item, language: Language, task: str) -> Item:
    """One of those pictures with one question."""
    return _item(picture, language, _ask(picture, [language])[language, task])
