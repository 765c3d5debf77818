"""Pieces of work in forked processes: results in order, errors as they are, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from open4ov import side_by_side
from open4ov.errors import UserError


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def children() -> set[str]:
    """The processes of this one; earlier tests may have left some of their own."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def told(number: int) -> tuple[int, int, int]:
    return number, os.getpid(), torch.get_num_threads()


def test_results_come_in_order_from_processes_of_one_thread_each() -> None:
    found = side_by_side.run([partial(told, 0), partial(told, 1)])
    assert [number for number, _, _ in found] == [0, 1]
    assert found[0][1] == os.getpid() != found[1][1]
    assert {threads for _, _, threads in found} == {1}
    assert torch.get_num_threads() == 2


def test_with_one_place_all_is_done_here() -> None:
    torch.set_num_threads(1)
    assert side_by_side.places() == 1
    assert {pid for _, pid, _ in side_by_side.run([partial(told, n) for n in range(3)])} == {os.getpid()}


def test_where_there_are_many_threads_they_are_left_to_the_work() -> None:
    torch.set_num_threads(side_by_side.MOST + 1)
    assert side_by_side.places() == 1
    assert [number for number, _, _ in side_by_side.run([partial(told, n) for n in range(9)])] == list(range(9))


def test_a_result_may_be_larger_than_a_pipe_holds_and_products_agree() -> None:
    weights = torch.randn(64, 300_000)

    def product() -> torch.Tensor:
        return weights.T @ torch.ones(64, 3)

    here, there = side_by_side.run([product, product])
    assert torch.equal(here, there)


def test_errors_are_raised_as_they_are() -> None:
    def wrong() -> int:
        raise UserError("file.png: is broken")

    before = children()
    with pytest.raises(UserError, match=r"file\.png: is broken"):
        side_by_side.run([lambda: 1, wrong])
    with pytest.raises(UserError, match=r"file\.png: is broken"):
        side_by_side.run([wrong, partial(time.sleep, 60)])  # and nobody waits for the other
    assert torch.get_num_threads() == 2
    assert children() <= before


def test_nothing_is_left_where_one_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, forks, pipes, before = os.fork, list[int](), set(os.listdir("/proc/self/fd")), children()

    def few() -> int:
        if forks:
            raise BlockingIOError("too many processes")
        forks.append(0)
        return fork()

    monkeypatch.setattr(os, "fork", few)
    with pytest.raises(BlockingIOError, match="too many"):
        side_by_side.run([lambda: 1, partial(time.sleep, 60), lambda: 3])
    assert set(os.listdir("/proc/self/fd")) == pipes
    assert children() <= before


def test_a_process_that_was_killed_is_told_of() -> None:
    with pytest.raises(UserError, match="was ended, perhaps for want of memory"):
        side_by_side.run([lambda: 1, lambda: os.kill(os.getpid(), signal.SIGKILL)])


def test_they_do_not_outlive_who_forked_them(tmp_path: Path) -> None:
    script = (
        "import os, time, torch; from pathlib import Path; from open4ov import side_by_side; torch.set_num_threads(2)\n"
        "def there(): Path(os.environ['TOLD']).write_text(str(os.getpid())); time.sleep(60)\n"
        "def here(): time.sleep(60)\n"
        "side_by_side.run([here, there])"
    )
    file = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "TOLD": str(file)}) as process:
        while not (file.exists() and file.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    child = int(file.read_text())
    for _ in range(200):
        if not _runs(child):
            return
        time.sleep(0.05)
    pytest.fail("it goes on without anybody")


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
