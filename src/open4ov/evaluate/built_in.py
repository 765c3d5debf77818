"""The built-in sets of the nano lineage as sets of `open4ov eval`: the questions that every model of a run is asked
(`suites.py`), and some that only this command asks (`more_items.py`). All are a pure function of count and seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from PIL import Image

from open4ov.evaluate import items, more_items, suites
from open4ov.evaluate.benchmarks import Benchmark
from open4ov.evaluate.item import Fault, Item
from open4ov.evaluate.scores import DERIVED, GROUPS, ROWS
from open4ov.mllm.asked import Picture

READ_OFF = ("reasoning_pass_k", "diversity", "length", *DERIVED)
"""Rows of a run's table that are made of another's answers"""
MORE = tuple(more_items.SUITES)
_FIRST = (*GROUPS["general"].of, *GROUPS["vertical"].of, *GROUPS["text"].of, "reasoning_greedy", "reasoning")
MEMBERS: dict[str, tuple[str, ...]] = {
    **{name: group.of for name, group in GROUPS.items()},
    "reasoning": ("reasoning_greedy", "reasoning"),
    "bias": tuple(name for name in ROWS if name not in (*_FIRST, *READ_OFF)),
    "more": MORE,
}
"""Group -> its sets. `reasoning` names a group, and its sampled set within it."""
NAMES = tuple(dict.fromkeys(name for members in MEMBERS.values() for name in members))


class BuiltIn:
    """One built-in set. `count`: items; `samples`: responses to each of the sampled reasoning set."""

    def __init__(self, name: str, count: int, samples: int, seed: int, max_tokens: int | None = None) -> None:
        row = ROWS.get(name) or more_items.ROWS[name]
        self._asked = _questions(name, count, seed)
        rules = sorted({question.rule for question in self._asked})
        self.benchmark = Benchmark.model_validate(
            {
                "title": row.title,
                "type": "vqa",
                "media": "image" if any(question.images for question in self._asked) else "text",
                "prompt": "plain",
                "rule": rules[0],
                "metric": "accuracy",
                "max_tokens": max_tokens or suites_longest(name),
                "split": "test of the shipped corpora" if name != "photographs" else "all",
            }
        )
        self.name, self.template = name, "{{ question }}"
        self.source = f"built in, seed {seed}" if name != "photographs" else "built in, labelled by looking"
        self.count = len(self._asked)
        self._samples = samples if name == "reasoning" else 1
        self._seed = seed

    def items(self) -> Iterator[Item | Fault]:
        for number, question in enumerate(self._asked, start=1):
            pictures = tuple(_picture(image) for image in question.images)
            yield Item(
                id=question.id if question.id.startswith(f"{self.name}/") else f"{self.name}/{question.id}",
                suite=self.name,
                place=f"{self.name}, item {number}",
                messages=question.messages,
                images=pictures,
                answers=question.answers,
                rule=question.rule,
                others=question.others,
                language=question.language,
                category=question.task if question.task != self.name else "",
                cluster="/".join(picture.sha for picture in pictures) or question.id,
                max_tokens=self.benchmark.max_tokens,
                temperature=1.0 if self._samples > 1 or self.name == "reasoning" else 0.0,
                samples=self._samples,
                seed=self._seed,
            )


def suites_longest(name: str) -> int:
    """Tokens that a response may have, as in a run's own evaluation."""
    return 96 if name in MORE else 64


@lru_cache(maxsize=32)
def _questions(name: str, count: int, seed: int) -> tuple[items.Question, ...]:
    if name in MORE:
        return tuple(more_items.SUITES[name](count, seed))
    if name in (*items.GENERAL, *items.TEXT):
        return tuple(items.general(name, count, seed))
    if name in ("in_car_en", "in_car_zh"):
        return tuple(items.vertical("en" if name == "in_car_en" else "zh", count, seed))
    if name in ("reasoning", "reasoning_greedy"):
        found = items.general("reasoning", count, seed)
        if name == "reasoning":
            return tuple(found)
        return tuple(replace(question, id=f"greedy/{question.id}", suite=name) for question in found)
    return tuple(question for question in suites.questions(count, count, seed) if question.suite == name)


def _picture(image: Image.Image) -> Picture:
    head = f"{image.mode} {image.size} ".encode()
    return Picture(hashlib.sha256(head + image.tobytes()).hexdigest(), lambda: image)


def expand(names: Sequence[str]) -> list[str]:
    """Built-in sets of groups and names, each once; names that are neither are left out. `reasoning` is the group."""
    found: dict[str, None] = {}
    for name in names:
        for member in MEMBERS.get(name, (name,) if name in NAMES else ()):
            found[member] = None
    return list(found)
