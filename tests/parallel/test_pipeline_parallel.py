"""Stages on several processes compute what one process does: every schedule, pictures in some microbatches."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from packs import processor_of
from pipelines import Case, Packs, alone, compare, staged, step_packs
from world import run

from open4ov.errors import UserError
from open4ov.parallel import orders
from open4ov.parallel.pipeline import Pipeline
from open4ov.parallel.stage import Stage

pytestmark = pytest.mark.distributed

CHUNKS = {"gpipe": 1, "1f1b": 1, "interleaved": 2, "interleaved_zero_bubble": 2, "zbv": 2}


def check(directory: Path, processes: int, cases: list[Case]) -> None:
    found = run(staged, processes, str(directory), cases)
    for number, case in enumerate(cases):
        own = [each[number] for each in found]
        try:
            compare(alone(directory, case), own)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from None
        copies = [g for one in own for name, g in one.gradients if name == "text.embed.weight"]
        assert all(torch.equal(copies[0], g) for g in copies[1:]), "the copies of tied words differ"


def test_every_schedule(tiny_dir: Path) -> None:
    """Experts and taps over a border in one of them, an odd number of microbatches."""
    cases = [Case(name, CHUNKS[name], count=3) for name in orders.NAMES]
    cases[1] = replace(cases[1], kind="experts", borders=(1,))
    check(tiny_dir, 2, cases)


def test_gradients_of_two_calls_add_up(tiny_dir: Path) -> None:
    """Those of tied words, too, which both of their stages hold in full after each call."""
    check(tiny_dir, 2, [Case("1f1b", count=2, times=2), Case("zbv", 2, count=1, times=2)])


def broken(directory: str, case: Case) -> str:
    """A picture is missing in a pack, which the first stage finds; the other waits for no more than 3 seconds."""
    group = dist.new_group(timeout=timedelta(seconds=3))
    assert isinstance(group, dist.ProcessGroup)
    processor = processor_of(directory)
    model = case.model(processor)
    rank = dist.get_rank()
    stage = Stage(model, *((0, 4), (4, 8))[rank])
    packs = step_packs(processor, 2)
    packs[0] = replace(packs[0], pixels=packs[0].pixels[:0], grids=packs[0].grids[:0], images=(0,))
    work = Packs(model.config, packs)
    if stage.ends:
        work.head = stage.head_weight
    try:
        Pipeline([stage], "1f1b", group).run(work)
    except UserError as error:
        return str(error)
    return "nothing was raised"


def test_a_rank_that_fails_says_why_and_the_others_do_not_wait_for_ever(tiny_dir: Path) -> None:
    first, second = run(broken, 2, str(tiny_dir), Case("1f1b", count=2))
    assert "placeholders, but its images and videos have 0 tokens" in first
    assert "pipeline: rank 1 of 2 waited for a neighbour that failed" in second
    assert "parallel.timeout" in second
