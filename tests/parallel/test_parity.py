"""A training on a mesh against one process: loss, every gradient, weights after two steps, scores."""

from __future__ import annotations

from pathlib import Path

import pytest
from parity import Case, compare

TWO = [
    Case({"dp_shard": 2}, "experts", recompute="op"),
    Case({"dp_replicate": 2}, "untied", "shared", frozen=True),
    Case({"tp": 2}, "biased", "shared", recompute="op"),
    Case({"tp": 2}, "experts", "shared"),
    Case({"tp": 2}, "dense", "grouped", frozen=True),
    Case({"cp": 2}, "dense", recompute="full"),
    Case({"cp": 2}, "experts", "shared", frozen=True),
    Case({"cp": 2}, "untied", "grouped"),
]
FOUR = [
    Case({"dp_shard": 4}),
    Case({"dp_replicate": 4}, "untied"),
    Case({"dp_replicate": 2, "dp_shard": 2}, "experts"),
    Case({"tp": 4}, "biased", "shared"),
    Case({"tp": 4}, "experts"),
    Case({"cp": 4}, "untied", "shared"),
    Case({"cp": 4}, "experts", frozen=True),
    Case({"cp": 4}, "dense", "grouped"),
    Case({"tp": 4}, "untied", "grouped"),
    Case({"cp": 2, "tp": 2}, "experts", "shared"),
    Case({"cp": 2, "tp": 2}, "dense", "grouped"),
    Case({"dp_shard": 2, "tp": 2}, "dense"),
    Case({"dp_shard": 2, "tp": 2}, "experts", frozen=True),
    Case({"dp_replicate": 2, "tp": 2}, "untied"),
    Case({"dp_shard": 2, "cp": 2}, "dense", "shared"),
]


@pytest.mark.distributed
def test_two_processes(tiny_dir: Path) -> None:
    compare(tiny_dir, 2, TWO)


@pytest.mark.slow
@pytest.mark.distributed
def test_four_processes(tiny_dir: Path) -> None:
    compare(tiny_dir, 4, FOUR)
