"""Who generates the responses of online RL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from open4ov.engine import Completion, Engine, Request, VisionCache
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL


class RollerGone(UserError):
    """Who generates the responses answers no more."""


class Roller(Protocol):
    """`exact`: its log-probabilities are those of the policy that is trained, up to rounding."""

    exact: bool

    @property
    def weight_version(self) -> int: ...

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]: ...

    def update_weights(self) -> None: ...

    def close(self) -> None: ...


class OwnRoller:
    """Our engine in this process, which computes with the trainer's own weights."""

    exact = True

    def __init__(self, model: Qwen3VL, processor: Processor, pictures: VisionCache) -> None:
        self.engine = Engine(model, processor, vision_cache=pictures)

    @property
    def weight_version(self) -> int:
        return self.engine.weight_version

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return self.engine.generate(requests)

    def update_weights(self) -> None:
        self.engine.update_weights()

    def close(self) -> None:
        pass


def build(model: Qwen3VL, processor: Processor, section: object, pictures: VisionCache) -> Roller:
    """The roller that the section asks for."""
    return OwnRoller(model, processor, pictures)
