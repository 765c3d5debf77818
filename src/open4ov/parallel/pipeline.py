"""Pipelines: the stages of a model on one rank, and a step's microbatches going through them (paper §5.1).

PyTorch's torch.distributed.pipelining runs the schedules (`orders.py` has their names). It hands stages tensors only;
what a microbatch is besides (positions, documents, pictures, targets) every rank has itself, and finds by its number.

Shapes: S tokens of a microbatch's shard, D hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from open4ov.errors import UserError

from .orders import check, needed, order, rank_of, stages_of
from .stage import Stage
from .twins import Twins
from .wire import Wire, attached

SCHEDULES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "interleaved_zero_bubble": ScheduleInterleavedZeroBubble,
    "zbv": ScheduleZBVZeroBubble,
}


class Work(Protocol):
    """A step's microbatches, as a pipeline asks for them: by number, and in any order. Every rank of the pipeline has
    the same. Numbers from `count` on, which fill up what a schedule needs, may be asked for, too, and weigh nothing."""

    @property
    def count(self) -> int: ...

    def shard(self, number: int) -> tuple[int, int]:
        """Tokens of the microbatch's shard, and visual tokens among them."""
        ...

    def compute(
        self, stage: Stage, number: int, rows: int, states: Tensor | None, taps: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One stage's part: what the stage before gave (None: it is the first) -> hidden states and taps, as `Stage`
        gives them, and what the stage adds to the value, a float32 scalar or None. rows: of the taps (`Layout.room`)"""
        ...

    def value(self, number: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the last stage makes of its hidden states: the scalar that this rank goes backward from, and the
        microbatch's value."""
        ...


class Pipeline:
    """The stages that this rank holds, in the order of the model. group: the ranks of the pipeline."""

    def __init__(
        self,
        stages: Sequence[Stage],
        schedule: str,
        group: dist.ProcessGroup,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.group, self.schedule, self.dtype, self.device = group, schedule, dtype, torch.device(device)
        self.ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.chunks = len(stages)
        check(schedule, self.ranks, self.chunks)
        self.total = self.ranks * self.chunks
        self.stages = dict(zip(stages_of(schedule, self.rank, self.ranks, self.chunks), stages, strict=True))
        self.last = rank_of(schedule, self.total - 1, self.ranks)
        """The rank that computes the loss"""
        self.twins = Twins(stages, group, 0, self.last)

    def run(self, work: Work) -> list[Tensor]:
        """All microbatches forward and backward, gradients added to those that are there -> on every rank the
        microbatches' values, detached, what the stages have added counted in.

        Raises UserError where a stage's own computation does, and when another rank has failed or does not come.
        """
        # what PyTorch's 1F1B refuses; gpipe does the same then (`orders.order`)
        few = self.schedule == "1f1b" and work.count < self.ranks
        name, count = "gpipe" if few else self.schedule, needed(self.schedule, self.ranks, work.count)
        pieces = self._pieces(work, count)
        values = torch.zeros(count, device=self.device)

        def value(hidden: Tensor, numbers: Tensor) -> Tensor:
            return pieces[-1].objective(int(numbers), hidden, values)

        given = pieces[0] if name in ("gpipe", "1f1b") else pieces
        schedule = SCHEDULES[name](given, count, value, scale_grads=False)
        numbers = torch.arange(count)
        before = self._put_aside()
        try:
            with _without_dumps():
                schedule.step(target=numbers, return_outputs=False, number=numbers)
        except Exception as error:
            raise self._told(error) from error
        self.twins.add_up()
        _add(before)
        return self._values(work, pieces, values)

    @torch.no_grad()
    def forward(self, work: Work) -> list[Tensor]:
        """The one microbatch forward only; see `run`. (Received and sent here: PyTorch's `eval` cannot do it for a V.)

        One, since a rank that sends its second one while the neighbour sends back would wait for ever under nccl, where
        sends and receives of two ranks are done in the order in which each asks for them. (gloo does not mind.)
        """
        assert work.count == 1, f"{work.count} microbatches forward at once"
        count = needed(self.schedule, self.ranks, work.count)
        pieces = {piece.stage_index: piece for piece in self._pieces(work, count)}
        values = torch.zeros(count, device=self.device)
        kept: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        sent: list[tuple[dist.Work | None, Tensor]] = []
        try:
            for stage, kind, number in order(self.schedule, self.ranks, self.chunks, count)[self.rank]:
                if kind != "F":
                    continue
                received = kept.pop((stage, number), None) or self._received(pieces[stage])
                out = pieces[stage].forward_maybe_with_nosync(*received, number=torch.tensor(number))
                if pieces[stage].is_last:
                    pieces[stage].objective(number, out, values)
                elif (there := rank_of(self.schedule, stage + 1, self.ranks)) == self.rank:
                    kept[stage + 1, number] = out
                else:
                    sent += [(dist.isend(x, group=self.group, group_dst=there), x) for x in out]
            for handle, _ in sent:
                if handle is not None:
                    handle.wait()
        except Exception as error:
            raise self._told(error) from error
        return self._values(work, list(pieces.values()), values)

    def _received(self, piece: _Piece) -> tuple[Tensor, ...]:
        if piece.is_first:
            return ()
        there = rank_of(self.schedule, piece.stage_index - 1, self.ranks)
        out = tuple(torch.empty_like(x, device=self.device) for x in piece.samples)
        for x in out:
            dist.recv(x, group=self.group, group_src=there)
        return out

    def _pieces(self, work: Work, count: int) -> list[_Piece]:
        sizes = [work.shard(number) for number in range(count)]
        wire = Wire(
            tokens=max(tokens for tokens, _ in sizes),
            rows=max(rows for _, rows in sizes),
            size=next(iter(self.stages.values())).config.text.hidden_size,
            dtype=self.dtype,
            device=self.device,
            moving=self._shared(any(p.requires_grad for p in self._tower())),
        )
        tokens = [size for size, _ in sizes]
        return [_Piece(stage, index, self, wire, work, tokens) for index, stage in self.stages.items()]

    def _put_aside(self) -> list[tuple[nn.Parameter, Tensor]]:
        """The gradients that are there already, which are taken away: PyTorch drops those of FSDP's modules when a
        schedule begins, and tied words have theirs added up."""
        found = [(p, p.grad) for stage in self.stages.values() for p in stage.parameters() if p.grad is not None]
        for parameter, _ in found:
            parameter.grad = None
        return found

    def _values(self, work: Work, pieces: Sequence[_Piece], values: Tensor) -> list[Tensor]:
        """With what all stages have added, on every rank."""
        for piece in pieces:
            for number, extra in piece.extras.items():
                values[number] += extra.detach()
        dist.all_reduce(values, group=self.group)
        return list(values[: work.count].unbind())

    def _tower(self) -> list[nn.Parameter]:
        return [p for stage in self.stages.values() if stage.vision is not None for p in stage.vision.parameters()]

    def _shared(self, flag: bool) -> bool:
        """What the first rank says."""
        told = torch.tensor(int(flag), device=self.device)
        dist.broadcast(told, group=self.group, group_src=0)
        return bool(told)

    def _told(self, error: Exception) -> Exception:
        """What a schedule has wrapped, or what the loss of a neighbour means."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                return cause
            cause = cause.__cause__
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST):
            return UserError(
                f"pipeline: rank {self.rank} of {self.ranks} waited for a neighbour that failed, or that took longer "
                f"than parallel.timeout allows; its own message says why ({str(error).strip().splitlines()[0]})"
            )
        return error


@torch.no_grad()
def _add(before: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, gradient in before:
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


@contextmanager
def _without_dumps() -> Iterator[None]:
    """PyTorch prints the whole schedule with every error; the error itself says enough."""
    log = logging.getLogger("torch.distributed.pipelining.schedules")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


_LOST = ("closed by peer", "Timed out", "timed out", "Connection reset", "Broken pipe", "Connection refused")


class _Piece(PipelineStage):
    """A stage as PyTorch's schedules know it."""

    def __init__(
        self, stage: Stage, index: int, pipeline: Pipeline, wire: Wire, work: Work, tokens: Sequence[int]
    ) -> None:
        self.samples = () if index == 0 else wire.samples(stage.taps_in())
        """What it receives, on the meta device"""
        super().__init__(
            stage,
            index,
            pipeline.total,
            pipeline.device,
            input_args=self.samples,
            output_args=wire.samples(0 if stage.ends else stage.taps_out()),
            group=pipeline.group,
        )
        self.stage, self.wire, self.work, self.tokens = stage, wire, work, tokens
        self.extras: dict[int, Tensor] = {}
        """What the stage has added to the value of each microbatch"""

    def forward_maybe_with_nosync(self, *received: Tensor, number: Tensor) -> Any:
        one, states, taps = int(number), None, None
        if received:
            states, taps = self.wire.unpacked(self.tokens[one], received)
        states, taps, extra = self.work.compute(self.stage, one, self.wire.rows, states, taps)
        if extra is not None:
            self.extras[one] = extra if self.stage.ends else extra.detach()
        if self.stage.ends:
            return states
        return self.wire.packed(states if extra is None else attached(states, extra), taps)

    def objective(self, number: int, hidden: Tensor, values: Tensor) -> Tensor:
        """What the last stage goes backward from; its value is written to `values`."""
        part, value = self.work.value(number, hidden)
        values[number] += value.detach()
        extra = self.extras.get(number)
        return part if extra is None else part + extra
