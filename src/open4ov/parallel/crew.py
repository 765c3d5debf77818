"""Rank 0 goes through a run, and calls the others to what all do together.

A run has hours of work for one process (data, evaluation) between its trainings. The other ranks wait meanwhile,
outside of any collective, so nothing is over too early; the watch sees to it that they do not wait for a dead one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from open4ov.parallel.launch import World
from open4ov.recipe import Recipe

EVERY = 0.1
"""Seconds between two looks for the next call"""


@dataclass
class Crew:
    """Rank 0's side: `call` before each piece of work that all do, and `end` when there is no more."""

    world: World
    calls: int = 0

    def ask(self, function: str, recipe: Recipe, arguments: dict[str, Any]) -> None:
        """Every other rank calls `package.module:function` now, by this recipe: in a later round of several it is not
        the one that the ranks were started with."""
        told = recipe.model_dump(mode="json", exclude_unset=True)
        self.call({"function": function, "recipe": told, "arguments": arguments})

    def call(self, work: dict[str, Any]) -> None:
        """Every other rank's `follow` does this now. `work` is what JSON can hold."""
        self._put(json.dumps(work))

    def end(self) -> None:
        """`follow` returns."""
        self._put("")

    def _put(self, text: str) -> None:
        self.world.store.set(f"call/{self.calls}", text)
        self.calls += 1


@contextmanager
def leading(world: World) -> Generator[Crew]:
    """Rank 0's crew; dismissed when the block ends well. When it does not, `launch.joined` ends all."""
    crew = Crew(world)
    yield crew
    crew.end()


def follow(world: World, do: Callable[[dict[str, Any]], None]) -> None:
    """The other ranks' side: does each piece of work that rank 0 calls for, in order, until it ends."""
    number = 0
    while True:
        key = f"call/{number}"
        while not world.store.check([key]):
            time.sleep(EVERY)
        text = world.store.get(key).decode()
        if not text:
            return
        do(json.loads(text))
        number += 1
