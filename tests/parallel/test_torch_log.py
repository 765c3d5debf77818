"""Which of torch's warnings show, and where."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from torch.distributed.tensor import Shard, _redistribute

from open4ov.parallel import torch_log


class Stand:
    """In the place of a mesh. Torch warns once of each, which it tells by the hash."""

    mesh_dim_names = ("efsdp", "ep")
    count = 0

    def __init__(self) -> None:
        Stand.count += 1
        self.number = Stand.count

    def __hash__(self) -> int:
        return -1000 - self.number


def warn(kind: str) -> None:
    """As torch warns of two collectives of that kind in a row."""
    mesh: Any = Stand()
    _redistribute._warn_flatten_optimization_not_possible(  # pyright: ignore[reportPrivateUsage]
        mesh, (0, 1), (Shard(0), Shard(0)), (Shard(0), Shard(0)), 2, kind, "no_flattened_mesh"
    )


def test_a_gather_in_two_steps_is_no_matter_and_a_sum_is(caplog: pytest.LogCaptureFixture) -> None:
    with torch_log.told(0):
        warn("all_gather")
        assert not caplog.records
        warn("all_reduce")
        assert "2 sequential all_reduce" in caplog.text
    caplog.clear()
    warn("all_gather")  # the filter is gone: torch's message is the one that is meant
    assert "2 sequential all_gather" in caplog.text


def test_other_ranks_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with torch_log.told(1):
        logging.getLogger("torch").error("an error")
    assert not caplog.records
    logging.getLogger("torch").error("an error")
    assert caplog.records
