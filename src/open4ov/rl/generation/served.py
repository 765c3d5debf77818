"""Rollouts by others: servers at addresses (`rl.rollout.url`), of vLLM or our own engine, or a process of vLLM's own
environment on this machine.

Gone in mid-step: a server's requests go to the others, or are tried again with pauses (`engine/rollouts/servers.py`), a
process is started anew, with the weights as they are now. What cannot be had so ends as `GeneratorGone`, which says
where and what to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from open4ov.engine import Completion, Request, VisionCache
from open4ov.engine.generate import Progress
from open4ov.engine.rollouts.servers import Servers
from open4ov.engine.vllm import VLLM
from open4ov.engine.vllm_wire import Gone
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe_rl_rollout import RolloutSection
from open4ov.rl.generation.generator import GeneratorGone, copied

T = TypeVar("T")


class ServedGenerator:
    """Others over the policy's weights. It is not exact: they round otherwise, and the update corrects for that.

    With `rl.rollout.ahead` it holds a copy of the policy, which is what the answers are compared with. Raises
    UserError for a server that cannot do this or a key that is not there, GeneratorGone when none answers.
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        section: RolloutSection,
        pictures: VisionCache | None = None,
        version: int = 0,
    ) -> None:
        self.section, self.trained, self.processor = section, model, processor
        self._model = copied(model) if section.ahead else model
        self.apart = section.ahead
        self.vision_cache = pictures or VisionCache(model, processor)
        self._versions = version
        self._engine: VLLM | Servers | None = None
        self._restarts(lambda: self._running)

    @property
    def weight_version(self) -> int:
        return self._versions + (self._engine.weight_version if self._engine is not None else 0)

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        found = self._restarts(lambda: self._running.generate(requests, progress))
        version = self.weight_version  # a process that was started anew counts from 0
        return [[replace(one, weight_version=version) for one in group] for group in found]

    def update_weights(self) -> int:
        state = self.trained.state_dict() if self._model is not self.trained else None
        self._restarts(lambda: self._running.update_weights(state))
        return self.weight_version

    def release(self) -> None:
        """Nothing: their memory is their own."""

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @property
    def _running(self) -> VLLM | Servers:
        if self._engine is None:
            self._engine = self._start()
        return self._engine

    def _start(self) -> VLLM | Servers:
        section = self.section
        if not section.urls:
            return VLLM(self._model, self.processor, max_batch=section.batch, tolerance=section.tolerance)
        assert section.folder is not None, "the recipe's rules ask for it"
        return Servers(
            self._model,
            self.processor,
            section.urls,
            section.folder,
            only_own=section.backend == "served",
            served_folder=section.served_folder,
            key=_key(section.key_env),
            timeout=section.timeout,
            tries=section.tries,
            concurrency=section.concurrency,
            tolerance=section.tolerance,
        )

    def _restarts(self, what: Callable[[], T]) -> T:
        """What `what` gives. A process of ours that has died is started again, `tries` times in all; servers have been
        asked as often when they count as gone."""
        tries = 1 if self.section.urls else self.section.tries
        for left in range(tries - 1, -1, -1):
            try:
                return what()
            except Gone as error:
                if self._engine is not None and not self.section.urls:
                    self._versions += self._engine.weight_version
                    self.close()
                if not left:
                    raise self._gone(error) from error
        raise AssertionError("unreachable")

    def _gone(self, error: Gone) -> GeneratorGone:
        where, mend = "rl.rollout.backend vllm: vLLM", "See the end of its log above"
        if urls := self.section.urls:
            where = (
                f"rl.rollout.url {', '.join(urls)}: the server" if len(urls) == 1 else "rl.rollout.url: every server"
            )
            command = "open4ov rollout DIR" if self.section.backend == "served" else "open4ov vllm-plan DIR --rollout"
            mend = f"Start {'it' if len(urls) == 1 else 'one'} again (see `{command}`)"
        return GeneratorGone(
            f"{where} is gone: {error}. {mend}, and give the same command again: the training goes on from its last "
            "checkpoint"
        )


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise UserError(f"rl.rollout.key_env: the environment variable {name} is not set")
    return key
