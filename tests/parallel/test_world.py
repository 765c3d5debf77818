"""The harness itself: a test that cannot fail is none."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import world

pytestmark = pytest.mark.distributed


def summed(start: float) -> tuple[int, torch.Tensor]:
    value = torch.tensor([start + dist.get_rank()])
    dist.all_reduce(value)
    return torch.get_num_threads(), value


def failing(folder: Path) -> None:
    (folder / str(dist.get_rank())).write_text(str(os.getpid()))
    if dist.get_rank() == 1:
        raise ValueError("the wheel came off")
    dist.barrier()  # never answered


def dying(folder: Path) -> None:
    (folder / str(dist.get_rank())).write_text(str(os.getpid()))
    dist.barrier()
    if dist.get_rank() == 1:
        os._exit(7)
    dist.barrier()


def hanging(folder: Path) -> None:
    (folder / str(dist.get_rank())).write_text(str(os.getpid()))
    if dist.get_rank() == 1:
        a_place_to_hang()
    dist.barrier()


def a_place_to_hang() -> None:
    time.sleep(600)


def environment() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def alive(folder: Path) -> list[str]:
    """Which of the processes that wrote their number are there still, as a process or as a zombie."""
    return [name.read_text() for name in folder.iterdir() if Path("/proc", name.read_text()).exists()]


def gone(folder: Path) -> bool:
    until = time.monotonic() + 10  # the server that forked them collects them
    while alive(folder) and time.monotonic() < until:
        time.sleep(0.01)
    return not alive(folder)


def test_each_rank_gives_its_result() -> None:
    results = world.run(summed, 3, 10.0)
    assert [threads for threads, _ in results] == [1, 1, 1]
    assert [value.item() for _, value in results] == [33.0] * 3


def test_without_a_group_there_is_torchruns_environment() -> None:
    assert world.run(environment, 2, joined=False) == [("0", "2", "0", "127.0.0.1"), ("1", "2", "1", "127.0.0.1")]


def test_the_error_of_the_rank_that_failed_is_shown(tmp_path: Path) -> None:
    with pytest.raises(world.WorldError, match=r"(?s)rank 1 of 3 failed:.*ValueError: the wheel came off"):
        world.run(failing, 3, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert gone(tmp_path)


def test_a_rank_that_dies_is_named(tmp_path: Path) -> None:
    with pytest.raises(world.WorldError, match=r"rank 1 died \(exit code 7\)"):
        world.run(dying, 2, tmp_path)
    assert gone(tmp_path)


@pytest.mark.slow
def test_a_rank_that_hangs_is_ended_and_shown(tmp_path: Path) -> None:
    with pytest.raises(world.WorldError, match=r"(?s)the time is over.*rank 1 hangs:.*a_place_to_hang"):
        world.run(hanging, 2, tmp_path, timeout=4)
    assert len(list(tmp_path.iterdir())) == 2
    assert gone(tmp_path)
