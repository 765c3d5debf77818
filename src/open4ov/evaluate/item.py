"""One question of an evaluation set, wherever it comes from, and a set as a stream of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from open4ov.evaluate.benchmarks import Benchmark
from open4ov.mllm.asked import Picture
from open4ov.sample import Message


@dataclass(frozen=True)
class Item:
    """A conversation that ends with the user's turn, and what counts as right.

    `images` are those that the messages' parts index; their pixels are loaded when somebody looks. `options`: letter
    -> text. `answers`: right answers; a letter of `options` for a choice. `others`: answers about other things, for the
    rule `sentence`. `group`: items of one group are one question asked in several rotations. `cluster`: items of one
    cluster are not independent of each other. `details`: columns that a scoring rule of its own reads. `question` and
    `hint`: as a file has them, before the prompt's template.
    """

    id: str
    suite: str
    place: str
    messages: tuple[Message, ...]
    images: tuple[Picture, ...]
    answers: tuple[str, ...]
    rule: str
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    others: tuple[str, ...] = ()
    language: str = "en"
    category: str = ""
    group: str = ""
    cluster: str = ""
    task: str = ""
    details: Mapping[str, str] = field(default_factory=dict[str, str])
    question: str = ""
    hint: str = ""
    max_tokens: int = 256
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0

    @property
    def prompt(self) -> str:
        """The words as they are put; pictures as <image> and videos as <video>, turns by their speakers."""
        turns = [
            (each.role, "".join(part.text or "" if part.type == "text" else f"<{part.type}>" for part in each.content))
            for each in self.messages
        ]
        return turns[0][1] if len(turns) == 1 else "\n\n".join(f"{role}: {text}" for role, text in turns)

    def key(self, model: str) -> str:
        """Under what an answer is kept: all that decides it, with `model` naming who answers."""
        asked = [
            model,
            [message.model_dump(mode="json") for message in self.messages],
            [picture.sha for picture in self.images],
            [self.max_tokens, self.temperature, self.samples, self.seed if self.temperature else 0],
        ]
        text = json.dumps(asked, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Fault:
    """A row that is not asked, and why. `place` names file and line."""

    place: str
    reason: str


class Suite(Protocol):
    """A set that is asked: `count` items, the same in the same order each time; rows that cannot be asked are faults.

    `template`: the prompt as a template, for the record; `source`: where it is from, in words.
    """

    name: str
    benchmark: Benchmark
    template: str
    source: str
    count: int

    def items(self) -> Iterator[Item | Fault]: ...
