"""A step's tasks and the responses to them as they come: by the weights as they are, or generated one step ahead during
the update before (`ahead.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from open4ov.engine import Completion, Request
from open4ov.recipe import RlSection
from open4ov.rl.generation.ahead import Ahead
from open4ov.rl.generation.generator import Generator, GeneratorGone
from open4ov.rl.rollout import requests
from open4ov.rl.state import State
from open4ov.rl.tasks import Task


class Feed:
    """`next` gives each step in turn. What is under way is in `notes`, which a training that goes on begins with."""

    def __init__(self, generator: Generator, state: State, section: RlSection, seed: int) -> None:
        self.generator, self.state, self.section, self.seed = generator, state, section, seed
        self._tasks: dict[int, list[Task]] = {}
        self._stepped = False
        self.lag = 0
        """Updates that the policy has made since the weights that the last responses are by"""
        self._ahead: Ahead | None = None
        if section.rollout.ahead:
            coming = state.coming
            if coming is not None:
                self._tasks[coming["rollouts"]["step"]] = [state.pool[name] for name in coming["tasks"]]
            self._ahead = Ahead(generator, self._requests, coming and coming["rollouts"])

    def next(self, step: int) -> tuple[list[Task], list[list[Completion]]]:
        """Raises GeneratorGone; nothing of the step has changed then. Raises RuntimeError for responses by other
        weights than those that the step is to have: the trained ones, or with `ahead` those of at most one update
        before."""
        self._tasks.pop(step - 1, None)  # settled by now
        if self._ahead is not None:
            responses = self._ahead.next(step)
        else:
            if self._stepped:
                self.generator.update_weights()
                self._stepped = False
            responses = self.generator.generate(self._requests(step) or ())
        self.lag = self._behind(step, responses)
        return self._tasks[step], responses

    def _behind(self, step: int, responses: Sequence[Sequence[Completion]]) -> int:
        version = self.state.version
        stamps = {one.weight_version for group in responses for one in group}
        allowed = range(version - 1 if self._ahead is not None else version, version + 1)
        if not all(stamp in allowed for stamp in stamps):
            raise RuntimeError(
                f"step {step + 1} of RL has responses by the weights of version {sorted(stamps)}; the policy's is "
                f"{version}"
            )
        return version - min(stamps, default=version)

    def stepped(self) -> None:
        """The weights are others now."""
        self._stepped = True

    def notes(self) -> dict[str, Any] | None:
        """The step to come, waited for, where it is generated ahead; plain JSON."""
        rollouts = self._ahead.state() if self._ahead is not None else None
        if rollouts is None:
            return None
        return {"tasks": [task.sample.id for task in self._tasks[rollouts["step"]]], "rollouts": rollouts}

    def kept(self) -> dict[str, Any] | None:
        """The same where it is there, after GeneratorGone: a step whose responses nobody finished is begun anew."""
        try:
            return self.notes()
        except GeneratorGone:
            return None

    def close(self) -> None:
        """Waits for what is under way, and ends who generates."""
        if self._ahead is not None:
            self._ahead.close()
        self.generator.close()

    def _requests(self, step: int) -> Sequence[Request] | None:
        """Those of a step; of one ahead, before the step in front of it is settled."""
        if step == self.section.steps:
            return None
        self._tasks[step] = self.state.tasks(self.section.prompts, self._tasks.get(step - 1, ()))
        return requests(self._tasks[step], self.section, step, self.seed)
