"""The order of a pipeline's actions, against PyTorch's own schedules."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.pipelining import schedules as torch_schedules

from open4ov.errors import UserError
from open4ov.parallel import orders

CLASSES: dict[str, Any] = {
    "gpipe": torch_schedules.ScheduleGPipe,
    "1f1b": torch_schedules.Schedule1F1B,
    "interleaved": torch_schedules.ScheduleInterleaved1F1B,
    "interleaved_zero_bubble": torch_schedules.ScheduleInterleavedZeroBubble,
    "zbv": torch_schedules.ScheduleZBVZeroBubble,
}


class Recorder:
    """A stage that notes what a schedule asks of it, and sends and computes nothing."""

    def __init__(self, rank: int, ranks: int, chunk: int, chunks: int) -> None:
        self.stage_index, self.num_stages = rank + chunk * ranks, ranks * chunks
        self.group_rank, self.group_size, self.is_last, self.submod = rank, ranks, False, None
        self.seen: list[orders.Action] = []

    def get_fwd_recv_ops(self, microbatch: int) -> list[Any]:
        return []

    get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = get_fwd_recv_ops

    def forward_one_chunk(self, microbatch: int, *given: Any, **named: Any) -> None:
        self.seen.append(orders.Action(self.stage_index, "F", microbatch))

    def backward_one_chunk(self, microbatch: int, **named: Any) -> None:
        self.seen.append(orders.Action(self.stage_index, "B", microbatch))

    def perform_reduce_grad(self, factor: int) -> None:
        pass


def run_by_torch(schedule: str, ranks: int, microbatches: int) -> list[list[orders.Action]]:
    """What PyTorch's schedules of one stage a rank do when they run. (The order that its 1F1B gives, for pictures,
    begins with the second microbatch on the last rank.)"""
    found: list[list[orders.Action]] = []
    for rank in range(ranks):
        stage = Recorder(rank, ranks, 0, 1)
        made = CLASSES[schedule](stage, microbatches, lambda output, target: output)
        made._initialize_stage = lambda *given: None
        made._step_microbatches()
        found.append(stage.seen)
    return found


def planned_by_torch(
    schedule: str, ranks: int, chunks: int, microbatches: int
) -> tuple[list[list[orders.Action]], dict[int, int]]:
    """What PyTorch's schedules of several stages a rank will do, and where they put the stages."""
    logging.disable(logging.WARNING)
    try:  # it may refuse the numbers
        made = CLASSES[schedule](
            [Recorder(0, ranks, chunk, chunks) for chunk in range(chunks)], microbatches, lambda output, target: output
        )
    finally:
        logging.disable(logging.NOTSET)
    found = [
        [
            orders.Action(action.stage_index, action.computation_type.value, action.microbatch_index)
            for action in made.pipeline_order_with_comms[rank]
            if action.computation_type.value in ("F", "B", "I", "W")
        ]
        for rank in range(ranks)
    ]
    return found, made.stage_index_to_group_rank


shapes = st.tuples(st.sampled_from(orders.NAMES), st.integers(1, 5), st.integers(1, 3), st.integers(1, 12))


def valid(schedule: str, ranks: int, chunks: int, wanted: int) -> tuple[str, int, int, int]:
    chunks = 2 if schedule == "zbv" else 1 if schedule in ("gpipe", "1f1b") else chunks
    return schedule, ranks, chunks, orders.needed(schedule, ranks, wanted)


@settings(max_examples=150, deadline=None)
@given(shapes)
def test_the_order_is_that_of_torch(shape: tuple[str, int, int, int]) -> None:
    schedule, ranks, chunks, microbatches = valid(*shape)
    if schedule == "1f1b" and microbatches < ranks:
        return  # PyTorch refuses it
    if chunks == 1 and schedule in ("gpipe", "1f1b"):
        theirs, places = run_by_torch(schedule, ranks, microbatches), {i: i for i in range(ranks)}
    else:
        theirs, places = planned_by_torch(schedule, ranks, chunks, microbatches)
    assert orders.order(schedule, ranks, chunks, microbatches) == theirs
    assert {stage: orders.rank_of(schedule, stage, ranks) for stage in range(ranks * chunks)} == places


@settings(max_examples=100, deadline=None)
@given(shapes)
def test_every_rank_does_each_of_its_stages_for_each_microbatch_once(shape: tuple[str, int, int, int]) -> None:
    schedule, ranks, chunks, microbatches = valid(*shape)
    kinds = "FIW" if schedule in orders.SPLIT else "FB"
    for rank, own in enumerate(orders.order(schedule, ranks, chunks, microbatches)):
        stages = orders.stages_of(schedule, rank, ranks, chunks)
        assert len(stages) == chunks
        wanted = [(stage, kind, i) for stage in stages for kind in kinds for i in range(microbatches)]
        assert sorted(own) == sorted(wanted)


def test_fewer_microbatches_than_ranks() -> None:
    assert orders.order("1f1b", 4, 1, 3) == orders.order("gpipe", 4, 1, 3)
    with pytest.raises(ValueError, match="greater than"):
        run_by_torch("1f1b", 4, 3)


def test_microbatches_are_rounded_up_to_whole_rounds() -> None:
    assert [orders.needed("interleaved", 2, m) for m in range(1, 8)] == [1, 2, 3, 4, 6, 6, 8]
    assert [orders.needed("zbv", 2, m) for m in range(1, 8)] == list(range(1, 8))
    with pytest.raises(ValueError, match="no order for 5 microbatches"):
        orders.order("interleaved", 2, 2, 5)


def test_torch_refuses_what_is_rounded_up() -> None:
    for ranks in (2, 3, 4):
        for microbatches in range(1, 12):
            if orders.needed("interleaved", ranks, microbatches) == microbatches:
                planned_by_torch("interleaved", ranks, 2, microbatches)
            else:
                with pytest.raises(ValueError, match="multiple of the number of rounds"):
                    planned_by_torch("interleaved", ranks, 2, microbatches)


def test_errors_name_the_key() -> None:
    with pytest.raises(UserError, match=r"parallel\.schedule: .*'1f1p'.*1f1b"):
        orders.check("1f1p", 2, 1)
    with pytest.raises(UserError, match=r"parallel\.chunks: 1f1b has one stage on each rank, not 2"):
        orders.check("1f1b", 2, 2)
    with pytest.raises(UserError, match=r"parallel\.chunks: zbv has two stages on each rank, not 1"):
        orders.check("zbv", 2, 1)
