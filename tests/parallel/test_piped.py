"""A training over a pipeline against one process: loss, every gradient, weights after two steps, scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from packs import processor_of
from piped import Case, compare

from open4ov.errors import UserError
from open4ov.parallel import recompute
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.piped import own_stages
from open4ov.recipe_parallel import ParallelSection

pytestmark = pytest.mark.distributed

CHUNKS = {"gpipe": {}, "1f1b": {}, "interleaved": {"chunks": 2}, "interleaved_zero_bubble": {"chunks": 2}, "zbv": {}}


def sizes(schedule: str, pp: int = 2, **others: int) -> dict[str, object]:
    return {"pp": pp, "schedule": schedule, **CHUNKS[schedule], **others}


def test_what_a_pipeline_refuses(tiny_dir: Path) -> None:
    model = Case({}).model(processor_of(tiny_dir))
    recompute.apply(model, "op")
    with pytest.raises(UserError, match=r"parallel\.schedule: zbv .* recompute 'op'"):
        own_stages(model, Mesh(pp=2), ParallelSection(pp=2, schedule="zbv"))


def test_a_rank_has_its_stages_and_a_copy_of_tied_words(tiny_dir: Path) -> None:
    model = Case({}).model(processor_of(tiny_dir))
    options = ParallelSection(pp=2, schedule="zbv", borders=(1, 2, 3))
    first, last = own_stages(model, Mesh(pp=2), options)
    assert ([i for i, _ in first.layers()], [i for i, _ in last.layers()]) == ([0], [3])
    assert first.begins
    assert last.ends
    assert last.head_weight is not first.get_parameter("text.embed.weight")
    assert torch.equal(last.head_weight, first.get_parameter("text.embed.weight"))
    second, third = own_stages(model, Mesh(pp=2, at=1), options)
    assert ([i for i, _ in second.layers()], [i for i, _ in third.layers()]) == ([1], [2])
    assert not any(stage.begins or stage.ends for stage in (second, third))


TWO = [
    Case(sizes("1f1b"), "experts", "shared", borders=(1,)),
    Case(sizes("gpipe"), "untied", frozen=True),
    Case(sizes("interleaved"), "dense", "grouped", frozen=True),
    Case(sizes("interleaved_zero_bubble"), "experts", passes=3),
    Case(sizes("zbv"), "dense", "plain"),
]


@pytest.mark.slow
def test_two_processes(tiny_dir: Path) -> None:
    compare(tiny_dir, 2, TWO)


FOUR = [
    Case(sizes("1f1b", 4), "experts", "shared", layers=8, borders=(1, 2, 5)),
    Case(sizes("gpipe", 4), "untied", passes=3, layers=8),
    Case(sizes("1f1b", 4), "dense", passes=1, layers=8),
    Case(sizes("interleaved", 4), "dense", frozen=True, layers=8),
    Case(sizes("interleaved_zero_bubble", 4), "experts", "shared", frozen=True, layers=8),
    Case(sizes("zbv", 4), "experts", "grouped", frozen=True, layers=8),
]
EIGHT = [
    Case(sizes("1f1b", dp_shard=2, tp=2, ep=4), "experts", "shared"),
    Case(sizes("zbv", dp_shard=2, tp=2), "dense", borders=(1, 2, 3)),
    Case(sizes("interleaved", cp=2, tp=2), "dense", "shared"),
    Case(sizes("interleaved_zero_bubble", cp=2, tp=2, ep=4), "experts"),
    Case(sizes("1f1b", cp=2, tp=2), "untied", "grouped"),
    Case(sizes("1f1b", dp_replicate=2, dp_shard=2), "experts", frozen=True),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", FOUR, ids=str)
def test_four_processes(tiny_dir: Path, case: Case) -> None:
    compare(tiny_dir, 4, [case])


@pytest.mark.slow
@pytest.mark.parametrize("case", EIGHT, ids=str)
def test_eight_processes(tiny_dir: Path, case: Case) -> None:
    """pp2 x dp2 x tp2, with the experts over four of them, and pp2 x cp2 x tp2."""
    compare(tiny_dir, 8, [case])


@pytest.mark.slow
def test_gradients_of_several_calls_before_a_step_add_up(tiny_dir: Path) -> None:
    """Tied words, of which both copies have the sum after the first call, count once; FSDP adds to what it has."""
    schedules = [
        Case(sizes("1f1b"), "experts", "shared", calls=2),
        Case(sizes("zbv"), "dense", "plain", calls=2),
        Case(sizes("interleaved_zero_bubble"), "untied", frozen=True, calls=2),
    ]
    compare(tiny_dir, 2, schedules)
    compare(tiny_dir, 4, [Case(sizes("1f1b", dp_shard=2), "dense", calls=2)])


@pytest.mark.slow
def test_recomputation(tiny_dir: Path) -> None:
    """A split backward pass works it out twice."""
    cases = [
        Case(sizes("interleaved_zero_bubble"), "experts", passes=2, recompute="full"),
        Case(sizes("zbv"), "dense", passes=2, recompute="full"),
        Case(sizes("1f1b"), "experts", passes=2, recompute="op"),
    ]
    compare(tiny_dir, 2, cases)
