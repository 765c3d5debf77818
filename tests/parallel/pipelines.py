"""A step's packs through a pipeline and through one process, for the tests of pipelines."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from packs import A, B, config_of, processor_of
from torch import Tensor

from open4ov.model import Config, Pack, Processor, Qwen3VL, VisionFeatures, pack
from open4ov.model.losses import nll_sum
from open4ov.model.moe import Routing
from open4ov.parallel.cuts import cut, typical
from open4ov.parallel.layout import Layout
from open4ov.parallel.orders import stages_of
from open4ov.parallel.pipeline import Pipeline
from open4ov.parallel.stage import Stage
from open4ov.sample import assistant, user
from open4ov.training import freeze_vision


def deep_config(processor: Processor, kind: str, layers: int = 8) -> Config:
    """More layers than the tiny model's three, and a third tap, so that taps cross several borders."""
    config = config_of(processor, kind)
    vision = replace(config.vision, deepstack_visual_indexes=(0, 1, 2))
    return replace(config, text=replace(config.text, num_hidden_layers=layers), vision=vision)


def step_packs(processor: Processor, count: int) -> list[Pack]:
    """Packs of different lengths, some with pictures, some without."""
    talks = [
        [([user("What colour is the circle?", 1), assistant("red")], [A])],
        [([user("1 + 1 ="), assistant("2")], []), ([user("left"), assistant("right above below")], [])],
        [
            ([user("How many squares are there?", 2), assistant("three")], [A, B]),
            ([user("left", 1), assistant("right above")], [B]),
        ],
        [([user("2 + 3 ="), assistant("5")], [])],
        [([user("What squares are there?", 1), assistant("one two three left right")], [B])],
    ]
    made = [pack([processor.encode(m, i) for m, i in talk]) for talk in talks]
    return [made[i % len(made)] for i in range(count)]


class Packs:
    """`Work` of plain packs: the mean loss over all targets."""

    def __init__(self, config: Config, packs: list[Pack]) -> None:
        self.config, self.packs = config, packs
        self.targets = sum(len(one.predicted) for one in packs)

    @property
    def count(self) -> int:
        return len(self.packs)

    def layout(self, number: int, rows: int | None = None) -> Layout:
        one = self.packs[number] if number < self.count else _nothing(self.packs[0])
        return Layout.of(one, self.config, room=rows)

    def shard(self, number: int) -> tuple[int, int]:
        layout = self.layout(number)
        return layout.stop - layout.start, layout.room

    def compute(
        self, stage: Stage, number: int, rows: int, states: Tensor | None, taps: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        layout = self.layout(number, rows)
        vision: VisionFeatures | None = None
        if stage.vision is not None and len(layout.pack.pixels):
            vision = stage.vision(layout.pack.pixels, layout.pack.grids)
        read = layout.pack.predicted - 1 if stage.ends else None
        routings: list[Routing] = []
        states, taps = stage(layout, states, taps, vision, None, routings, read)
        extra = None
        if routings:
            text = self.config.text
            share = len(layout.pack.predicted) / self.targets
            factor = share * text.router_aux_loss_coef / text.num_hidden_layers
            extra = factor * torch.stack([routing.balance() for routing in routings]).sum()
        return states, taps, extra  # pyright: ignore[reportReturnType]

    def value(self, number: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        one = self.packs[number] if number < self.count else _nothing(self.packs[0])
        part = nll_sum(hidden, self.head, one.input_ids[one.predicted]) / self.targets
        return part, part.detach()

    head: Tensor
    """[V, D], on the last stage"""


def _nothing(one: Pack) -> Pack:
    """One token, nothing predicted."""
    return Pack(
        input_ids=one.input_ids[:1],
        positions=one.positions[:, :1],
        cu_seqlens=torch.tensor([0, 1]),
        targets=torch.zeros(1, dtype=torch.bool),
        pixels=one.pixels[:0],
        grids=one.grids[:0],
    )


@dataclass(frozen=True)
class Case:
    """One step, and how it is computed."""

    schedule: str = "1f1b"
    chunks: int = 1
    kind: str = "dense"
    count: int = 3
    frozen: bool = False
    borders: tuple[int, ...] = ()
    """Empty: cut by cost"""
    times: int = 1
    """The same step so many times, gradients added up"""

    def model(self, processor: Processor) -> Qwen3VL:
        model = Qwen3VL(deep_config(processor, self.kind), seed=3)
        if self.frozen:
            freeze_vision(model)
        return model


@dataclass
class Found:
    """What a step left: its values, and gradients by name (two of tied words on two stages)."""

    values: list[Tensor]
    gradients: list[tuple[str, Tensor | None]]


def alone(directory: Path | str, case: Case) -> Found:
    """The step in one process."""
    processor = processor_of(directory)
    model, packs = case.model(processor), step_packs(processor, case.count)
    targets = sum(len(one.predicted) for one in packs)
    values: list[Tensor] = []
    for one in packs * case.times:
        value = model.loss(one) * (len(one.predicted) / targets)
        value.backward()
        values.append(value.detach())
    return Found(values[: case.count], [(name, p.grad) for name, p in model.named_parameters()])


def staged(directory: Path | str, cases: list[Case]) -> list[Found]:
    """The same in a pipeline of all processes: what this one has of each."""
    processor = processor_of(directory)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    out: list[Found] = []
    for case in cases:
        model = case.model(processor)
        layers = model.config.text.num_hidden_layers
        borders = case.borders or cut(typical(model.config, 100), ranks, case.chunks, case.schedule).borders
        edges = [0, *borders, layers]
        stages = [
            Stage(copy.deepcopy(model), edges[i], edges[i + 1])
            for i in stages_of(case.schedule, rank, ranks, case.chunks)
        ]
        work = Packs(model.config, step_packs(processor, case.count))
        for stage in stages:
            if stage.ends:
                work.head = stage.head_weight
        world = dist.group.WORLD
        assert world is not None
        pipeline, values = Pipeline(stages, case.schedule, world), list[Tensor]()
        for _ in range(case.times):
            values = pipeline.run(work)
        named = [(name, p.grad) for stage in stages for name, p in stage.named_parameters()]
        out.append(Found(values, named))
    return out


def compare(expected: Found, found: list[Found], loss: float = 1e-6, gradient: float = 1e-5) -> None:
    """Raises AssertionError, with the name, where ranks differ from one process by more than that: of the loss, and of
    each gradient by its largest element."""
    for one in found:
        assert len(one.values) == len(expected.values)
        for a, b in zip(one.values, expected.values, strict=True):
            assert abs(float(a - b)) <= loss, f"values {one.values} instead of {expected.values}"
    references, seen = dict(expected.gradients), set[str]()
    for name, own in (pair for one in found for pair in one.gradients):
        seen.add(name)
        reference = references[name]
        if reference is None or not reference.any():
            assert own is None or not own.any(), f"{name} has a gradient"
            continue
        assert own is not None, f"{name} has no gradient"
        worst = float((own - reference).abs().max() / reference.abs().max())
        assert worst <= gradient, f"{name}: {worst:.2e}"
    assert seen == set(references)
