"""The passes of a trainer's step as a pipeline takes them (`pipeline.Work`).

Shapes: S tokens of a pass's shard, D hidden, n tokens that a pass scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from open4ov.model.moe import Routing
from open4ov.training_pass import Pass, Precision

from . import data, expert
from .layout import Layout
from .reading import Reading
from .stage import Stage

if TYPE_CHECKING:
    from .model import Parallel


class Step:
    """Passes of a model whose stages lie on several ranks. `scored`: they are scored only, and no objective computed;
    the scores are kept for `scores`."""

    def __init__(self, model: Parallel, passes: Sequence[Pass], precision: Precision, scored: bool = False) -> None:
        self.model, self.precision, self.scored = model, precision, scored
        self.passes = [replace(one, pack=one.pack.to(model.device)) for one in passes]
        nothing = torch.zeros(0, dtype=torch.long)
        self.idle = Pass(data.filler(model.config, model.device), None, None, nothing, nothing, 0.0)
        self.layouts: dict[int, Layout] = {}
        self.scores: dict[int, tuple[Tensor, Tensor]] = {}
        """On the last stage's rank, by number"""
        self.routings: list[Routing] = []
        """How this rank's layers with experts spread the tokens of the last pass with a weight"""
        self.uneven: list[float] = []
        """And how evenly it loaded the ranks that share the experts (`expert.shares`)"""
        weighed = [number for number, one in enumerate(passes) if one.weight]
        self._told = weighed[-1] if weighed else len(passes) - 1

    @property
    def count(self) -> int:
        return len(self.passes)

    def shard(self, number: int) -> tuple[int, int]:
        layout = self._layout(number)
        return layout.stop - layout.start, len(layout.visual)

    def compute(
        self, stage: Stage, number: int, rows: int, states: Tensor | None, taps: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        one, layout = self._pass(number), replace(self._layout(number), room=rows)
        routings: list[Routing] | None = [] if one.objective is None and one.memory is None else None
        read = self._reading(number).rows if stage.ends else None
        tower = stage.begins and self.model.runs_tower(stage, one)
        with self.precision():
            states, taps = stage(layout, states, taps, one.vision, one.memory, routings, read, tower)
            extra = self.model.balance(one, routings or [])
        if routings and number == self._told:
            self.routings += [routing.detach() for routing in routings]
            self.uneven += expert.shares(stage)
        return states, taps, extra  # pyright: ignore[reportReturnType]

    def value(self, number: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        one, reading = self._pass(number), self._reading(number)
        stage = self.model.stages[-1]
        with self.precision():
            if not self.scored:
                return self.model.read(one, stage, reading, hidden)
            self.scores[number] = self.model.scored(one, stage, reading, hidden)
        nothing = hidden.new_zeros((), dtype=torch.float32)
        return nothing, nothing

    def _pass(self, number: int) -> Pass:
        return self.passes[number] if number < self.count else self.idle

    def _layout(self, number: int) -> Layout:
        if number not in self.layouts:
            self.layouts[number] = Layout.of(self._pass(number).pack, self.model.config, self.model.mesh)
        return self.layouts[number]

    def _reading(self, number: int) -> Reading:
        rows = self._pass(number).rows.to(self.model.device)
        return Reading.of(rows, self._layout(number), self.model.mesh)
