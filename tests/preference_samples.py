"""What preference sets are made of in the tests: samples of the shipped corpora, without drawing their pictures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from open4ov.corpora import arithmetic, instruction, questions, scenes
from open4ov.corpora.in_car import knowledge
from open4ov.corpora.in_car.questions import questions as in_car_questions
from open4ov.corpora.in_car.questions import scene as in_car_scene
from open4ov.corpora.item import QA, Scene
from open4ov.sample import Sample, assistant, content_id, user


def _sample(name: str, picture: str | None, qa: QA, scene: Scene, language: str, split: str = "train") -> Sample:
    return Sample.model_validate(
        {
            "id": content_id(name, qa.question, language, split),
            "source": "in_car" if scene["kind"] == "in_car" else "corpus:general",
            "split": split,
            "task": qa.task,
            "language": language,
            "images": [picture] if picture else [],
            "messages": [user(qa.question, images=1 if picture else 0), assistant(qa.response)],
            "answer": qa.answer,
            "aliases": qa.aliases,
            "scene": scene,
        }
    )


def vertical(split: str = "train") -> Iterator[Sample]:
    """Five questions in both languages about a picture of every second symbol."""
    for symbol in knowledge.load()[::2]:
        scene = in_car_scene(symbol, split)
        for language in ("en", "zh"):
            rng = random.Random(f"{symbol.id} {language}")
            for qa in in_car_questions(scene, rng, language):
                yield _sample(symbol.id, f"{split}-{symbol.id}", qa, scene, language, split)


def general(count: int, split: str = "train") -> Iterator[Sample]:
    """Grids with their questions, and `count` sums and instructions."""
    for number in range(count):
        rng = random.Random(f"general {split} {number}")
        scene = scenes.grid(rng, split)
        for language in ("en", "zh"):
            for qa in questions(scene, rng, language):
                yield _sample(f"g{number}", f"{split}-g{number}", qa, scene, language, split)
        for scene in (arithmetic.problem(rng, split), instruction.task(rng, split)):
            for qa in questions(scene, rng, "en"):
                yield _sample(f"t{number}", None, qa, scene, "en", split)


@cache
def everything() -> tuple[Sample, ...]:
    return (*vertical(), *general(200))
