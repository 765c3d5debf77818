"""What a corpus hands out: an `Item` is a sample with its pictures, a `QA` is one question with its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from open4ov.sample import Sample

if TYPE_CHECKING:
    from open4ov.store import ImageStore

TASKS = (
    "naming",
    "colour",
    "counting",
    "reading",
    "position",
    "comparing",
    "charts",
    "reasoning",
    "arithmetic",
    "instruction",
)

Scene = dict[str, Any]
"""An annotated picture: `kind` says which fields there are (scenes.py, text.py, charts.py list theirs)."""


@dataclass
class QA:
    """One question about a scene. `response` is the assistant's whole text; `answer` the short reference."""

    task: str
    question: str
    answer: str
    aliases: list[str] = field(default_factory=list)
    response: str = ""

    def __post_init__(self) -> None:
        self.response = self.response or self.answer


@dataclass
class Item:
    """A sample and its pictures; `sample.images` holds "" for each picture until `store` names them."""

    sample: Sample
    images: list[Image]

    def store(self, store: ImageStore) -> Sample:
        """The sample with its pictures put into `store` and named by their SHA-256."""
        return self.sample.model_copy(update={"images": [store.put(image) for image in self.images]})
