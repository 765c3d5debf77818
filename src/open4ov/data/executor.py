"""Who does the steps of data construction on its chunks (`data.executor`): this machine, or Ray's workers.

An executor is given a step's chunks and returns when all are done; what they made lies in the working folder, so
neither the order in which they were done nor who did them shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

from open4ov import side_by_side
from open4ov.data.chunk_steps import STEPS
from open4ov.data.hygiene import Tell
from open4ov.data.task import Tools


@dataclass(frozen=True)
class Chunk:
    """A chunk to be worked on: its number, how many images or samples it holds, and what its step is told besides."""

    number: int
    size: int
    told: dict[str, Any] = field(default_factory=dict[str, Any])


class Executor(Protocol):
    def run(self, step: str, chunks: Sequence[Chunk], tell: Tell) -> None:
        """Does a step on all chunks that are not done yet. Raises what the step raises."""
        ...


class Local:
    """On this machine: one chunk after the other; where nobody but the catalog is asked, which remembers nothing that
    later steps need, several side by side in processes forked for the step."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, step: str, chunks: Sequence[Chunk], tell: Tell) -> None:
        total, starts = sum(chunk.size for chunk in chunks), [0, *accumulate(chunk.size for chunk in chunks)]
        left = [
            (chunk, first)
            for chunk, first in zip(chunks, starts, strict=False)
            if not self._tools.work.done(step, chunk.number)
        ]
        here = os.getpid()

        def piece(part: Sequence[tuple[Chunk, int]]) -> None:
            for chunk, first in part:
                told = within(tell, first, chunk.size, total)
                self._tools.tell = told if os.getpid() == here else _nobody
                STEPS[step](self._tools, chunk.number, **chunk.told)

        count = min(len(left), side_by_side.places()) if self._tools.asker.offline else 1
        side_by_side.run([partial(piece, left[number::count]) for number in range(count)])


def _nobody(step: str) -> None:
    """Hears of no step: the screen is another process's."""


def within(tell: Tell, first: int, size: int, total: int) -> Tell:
    """Progress through a chunk as progress through all: `size` of `total` from `first` on."""

    def told(step: str) -> Callable[[int, int], None] | None:
        report_to = tell(step)
        if report_to is None:
            return None

        def report(done: int, of: int) -> None:
            report_to(first + (size * done // of if of else size), total)

        return report

    return told
