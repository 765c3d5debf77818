"""One construction as any process can be told of it, and what a process needs to take part in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from open4ov.data import hygiene, labels, topics, wishes
from open4ov.data.decontaminate import Benchmarks
from open4ov.data.nearest import Floats
from open4ov.data.working import Work
from open4ov.mllm.ask import Asker, Picture, Request
from open4ov.recipe import DataSection
from open4ov.sample import Axis, Sample
from open4ov.store import ImageStore

FALLEN = ("licence", "annotation", "picture", "near", "seen", "unranked", "unlabelled", "unscored", "idle",
          "unwritten", "unfit", "untopical")  # fmt: skip
"""Why an image fell out, in the order in which the report lists them"""

Skipped = dict[str, list[dict[str, str]]]
Matched = tuple[Sample, dict[Axis, list[str]], str]
"""An image, the L1 names kept for it, and its description"""


@dataclass(frozen=True)
class Task:
    """One construction, as a process on any machine can be told of it: options, seed and folders, never a key."""

    section: DataSection
    source: Path
    store: Path
    work: Path
    seed: int
    general: Path | None = None
    """The general set, which goes through hygiene only"""
    drawn: bool = False
    """Whether our own corpora drew it"""
    guessed: bool = False
    """Whether answers are made up, to estimate what they would cost"""


class Tools:
    """What a process needs for the steps of a task; made once a process."""

    def __init__(self, task: Task, asker: Asker) -> None:
        self.task, self.asker = task, asker
        self.section, self.seed = task.section, task.seed
        self.work, self.store = Work(task.work), ImageStore(task.store)
        self.tell: hygiene.Tell = lambda step: None
        self.tree = labels.load(task.section.labels)

    @cached_property
    def _benchmarks(self) -> Benchmarks | None:
        return hygiene.read_benchmarks(self.section.hygiene)

    def hygiene(self) -> hygiene.Hygiene:
        """A new one, whose report is of what it is shown from now on."""
        return hygiene.Hygiene(self.section.hygiene, self.store, self.seed, self.tell, self._benchmarks)

    @cached_property
    def wishes(self) -> wishes.Wishes | None:
        """What the recipe's feedback file asks for; None without one."""
        return wishes.read(self.section.feedback, self.tree) if self.section.feedback else None

    @cached_property
    def topics(self) -> list[topics.Topic]:
        return list(topics.read(self.work.root / "topics.parquet"))

    @cached_property
    def topic_rows(self) -> Floats:
        return self.asker.embedder.texts([topic.text for topic in self.topics])

    def pictures(self, sample: Sample) -> tuple[Picture, ...]:
        return tuple(self.picture(sample, sha) for sha in sample.images)

    def picture(self, sample: Sample, sha: str | None = None) -> Picture:
        """One of a sample's pictures; the first when none is named."""
        sha = sha or sample.images[0]
        return Picture(sha, lambda: self.store.get(sha), sample.scene, lambda: self.store.png(sha))

    def answers(
        self, step: str, why: str, about: Sequence[Sample], requests: list[Request], skipped: Skipped
    ) -> list[dict[str, Any] | None]:
        found = self.asker.ask_many(requests, self.tell(step))
        for image, answer in zip(about, found, strict=True):
            if not isinstance(answer, dict):
                skip(skipped, why, image, step, str(answer))
        return [answer if isinstance(answer, dict) else None for answer in found]


def skip(skipped: Skipped, why: str, image: Sample, step: str, reason: str) -> None:
    """Lists an image that falls out; `why` is one of `FALLEN`."""
    skipped.setdefault(why, []).append({"image": image.id, "step": step, "reason": reason})
