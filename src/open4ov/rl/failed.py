"""What RL found the model to fail altogether: the tasks none of whose responses was right (paper §3.2.3).

Stage 3 of a later run learns them in advance (`sft.preference_set.hard`), by the worked reference response.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from open4ov.rl.rollout import Group
from open4ov.rl.tasks import Task
from open4ov.sample import Message, Sample, Step
from open4ov.store import ImageStore


class Failures:
    """Counts, over a whole training, how often each task was tried and how often it was right."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._tried: dict[str, int] = {}
        self._right: dict[str, int] = {}

    def see(self, groups: Iterable[Group]) -> None:
        for group in groups:
            name = group.task.sample.id
            self._tasks.setdefault(name, group.task)
            self._tried[name] = self._tried.get(name, 0) + len(group.responses)
            self._right[name] = self._right.get(name, 0) + int((group.correct > 0).sum())

    def never(self, tasks: Iterable[Task], tried: int) -> None:
        """Tasks none of whose `tried` responses was right, and that are therefore not trained on."""
        for task in tasks:
            name = task.sample.id
            self._tasks.setdefault(name, task)
            self._tried[name] = self._tried.get(name, 0) + tried
            self._right.setdefault(name, 0)

    def notes(self) -> dict[str, Any]:
        """What JSON holds of it; `restore` puts that back."""
        return {"tried": self._tried, "right": self._right}

    def restore(self, notes: dict[str, Any], tasks: Iterable[Task]) -> None:
        """`tasks`: where those named in the notes are found, beside those seen already."""
        self._tried, self._right = dict(notes["tried"]), dict(notes["right"])
        for task in tasks:
            if task.sample.id in self._tried:
                self._tasks.setdefault(task.sample.id, task)

    def samples(self, images: ImageStore) -> list[Sample]:
        """Each task without a right response, as it was given, its pictures stored in `images`;
        `extra["failed"]`: {"tried": responses}."""
        return [self._sample(name, images) for name, right in self._right.items() if right == 0]

    def _sample(self, name: str, images: ImageStore) -> Sample:
        task, tried = self._tasks[name], self._tried[name]
        sample = task.sample
        return sample.model_copy(
            update={
                "images": _stored(task, images),
                "messages": [*task.prompt, *_reference(sample)],
                "pass_rate": 0.0,
                "mastery": "unmastered",
                "extra": {**sample.extra, "failed": {"tried": tried}},
                "steps": [*sample.steps, Step(stage="rl", note=f"none of {tried} responses was right")],
            }
        )


def _reference(sample: Sample) -> list[Message]:
    """The sample's response to the question that the task asks; none where it has none."""
    return next(([m] for m in sample.messages if m.role == "assistant"), [])


def _stored(task: Task, images: ImageStore) -> list[str]:
    """Corpora hand out pictures that no store has named yet."""
    return [name or images.put(picture) for name, picture in zip(task.sample.images, task.images, strict=True)]
