"""Real processes that are started as torchrun starts them: what they print, and how they end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import launched
import pytest
import world
from world import Ended

from open4ov.parallel.agree import code, differences, facts, files
from open4ov.parallel.launch import launched as is_launched
from open4ov.recipe import Recipe

SCRIPT = Path(__file__).with_name("launched.py")
pytestmark = pytest.mark.distributed


def start(
    what: str, processes: int, timeout: float = 60.0, ranks: list[int] | None = None, **changes: str
) -> list[Ended]:
    """What `launched.py` does in each rank -> how they ended. `ranks`: those that are started; `changes` of the
    environment."""
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(world.free_port()), "WORLD_SIZE": str(processes)}
    own["GLOO_SOCKET_IFNAME"] = "lo"
    started = range(processes) if ranks is None else ranks
    each = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **own, **changes} for rank in started]
    return world.ended(launched.begin, each, what, timeout)


def told(ended: list[Ended]) -> list[str]:
    """The lines of all ranks on stderr, without those of libraries."""
    return [line for one in ended for line in one.err.splitlines() if not line.startswith(("[W", "[rank", "[Gloo"))]


@pytest.mark.slow
def test_rank_0_alone_prints() -> None:
    first, second = start("summed", 2)
    assert (first.code, first.out) == (0, "the sum is 1\n")
    assert "to stderr" in first.err
    assert "by a log" in first.err
    assert (second.code, second.out) == (0, "")
    assert not told([second])


def test_a_user_error_of_one_rank_ends_all_with_one_message() -> None:
    ended = start("user_error", 3)
    assert [one.code for one in ended] == [2, 2, 2]
    assert told(ended) == ["open4ov: recipe.yaml, line 3: sft.tokens: expected more"]
    assert not told(ended[1:])


def test_a_user_error_of_all_ranks_is_told_once() -> None:
    ended = start("user_errors", 2)
    assert [one.code for one in ended] == [2, 2]
    assert len(told(ended)) == 1


def test_a_fault_is_told_with_its_place() -> None:
    ended = start("fault", 2)
    assert [one.code for one in ended] == [1, 1]
    assert told(ended)[0] == "open4ov: rank 1 failed:"
    assert told(ended)[-1] == "KeyError: 'no such thing'"
    assert not told(ended[1:])


def test_ctrl_c_is_told_by_the_exit_code() -> None:
    ended = start("interrupted", 2)
    assert [one.code for one in ended] == [130, 130]
    assert not told(ended)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others() -> None:
    ended = start("dies", 3)
    assert [one.code for one in ended] == [1, 9, 1]
    assert len(told(ended)) == 1
    assert told(ended)[0].startswith("open4ov: rank 1 on ")
    assert told(ended)[0].endswith("is gone: its process has died, or its machine cannot be reached")


@pytest.mark.slow
def test_a_rank_that_dies_while_nobody_waits_for_it() -> None:
    ended = start("dies_alone", 2, timeout=10)
    assert [one.code for one in ended] == [1, 9]
    assert len(told(ended)) == 1
    assert "has given no sign of life for 10 s (parallel.timeout)" in told(ended)[0]


@pytest.mark.slow
def test_a_rank_that_hangs_is_shown_and_ended() -> None:
    ended = start("hangs", 3, timeout=10)
    assert [one.code for one in ended] == [1, 1, 1]
    text = "\n".join(told(ended))
    assert "rank 1 on " in text
    assert "did not come to where the others waited for it for 10 s (parallel.timeout)" in text
    assert "in over_there" in text
    assert text.count("open4ov:") == 1


def test_ranks_with_different_recipes_do_not_train() -> None:
    ended = start("differ", 3)
    assert [one.code for one in ended] == [2, 2, 2]
    assert told(ended) == [
        "open4ov: the ranks were not given the same:",
        "  recipe: sft.pack_tokens: 1024 on rank 1; 512 on the others",
        "start all of them with the same command, code and files",
    ]


def test_ranks_follow_rank_0() -> None:
    first, second = start("called", 2)
    assert (first.code, first.out) == (0, "sft 2.0\nrl 2.0\n")
    assert (second.code, second.out) == (0, "")


def test_a_port_in_use() -> None:
    with socket.socket() as held:
        held.bind(("", 0))
        held.listen()
        port = str(held.getsockname()[1])
        (first,) = start("summed", 2, ranks=[0], MASTER_PORT=port)
    assert first.code == 2
    assert told([first]) == [
        f"open4ov: port {port} of this machine is in use, by another training perhaps; give another (torchrun "
        "--master-port, or MASTER_PORT)"
    ]


@pytest.mark.slow
def test_nobody_at_the_meeting_point() -> None:
    (second,) = start("summed", 2, timeout=2, ranks=[1])
    assert second.code == 2
    assert "rank 1: nobody answers at 127.0.0.1" in told([second])[-1]


@pytest.mark.slow
def test_ranks_that_do_not_come_are_named() -> None:
    ended = start("summed", 4, timeout=10, ranks=[0, 2])
    assert [one.code for one in ended] == [2, 2]
    assert "2 of 4 processes did not come within 10 s (parallel.timeout): ranks 1, 3;" in told(ended[:1])[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is not set; start the processes with torchrun"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', which is no whole number"),
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2: ranks go from 0 to 1"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT: 70000 is no port"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
    ],
)
def test_an_environment_that_says_nothing_sensible(changes: dict[str, str], said: str) -> None:
    (first,) = start("summed", 2, ranks=[0], **changes)  # pyright: ignore[reportArgumentType]
    assert first.code == 2
    assert said in told([first])[0]


def torchrun(what: str, processes: int, *options: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options, str(SCRIPT)]
    return subprocess.Popen(
        [*command, what],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_under_torchrun() -> None:
    out, err = torchrun("summed", 2, "--standalone").communicate(timeout=500)
    assert out == "the sum is 1\n", err


@pytest.mark.slow
def test_under_torchrun_a_user_error_is_told_once() -> None:
    process = torchrun("user_error", 3, "--standalone")
    _, err = process.communicate(timeout=500)
    assert process.returncode == 1  # torchrun's own
    assert err.count("recipe.yaml, line 3: sft.tokens: expected more") == 1
    assert "exitcode  : 2" in err


@pytest.mark.slow
def test_under_torchrun_a_user_error_is_not_tried_again() -> None:
    process = torchrun("user_error", 2, "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--max-restarts=2")
    _, err = process.communicate(timeout=500)
    assert process.returncode == 1
    assert err.count("recipe.yaml, line 3: sft.tokens: expected more") == 1
    assert err.count("open4ov: not tried again, though torchrun has --max-restarts left") == 2


@pytest.mark.slow
def test_under_torchrun_a_fault_is_tried_again() -> None:
    process = torchrun("fault", 2, "--standalone", "--max-restarts=1")
    _, err = process.communicate(timeout=500)
    assert process.returncode == 1
    assert err.count("open4ov: rank 1 failed:") == 2
    assert "not tried again" not in err


@pytest.mark.slow
def test_under_torchrun_a_killed_rank_is_told_by_its_report(tmp_path: Path) -> None:
    """It sees its own children die, and ends the others before these could find out."""
    process = torchrun("works", 2, "--standalone", NUMBERS=str(tmp_path))
    while not (tmp_path / "working").exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    cause = err.partition("Root Cause")[2]
    assert re.search(r"rank +: 1 \(local_rank: 1\)", cause)
    assert "SIGKILL" in cause


@pytest.mark.slow
def test_a_torchrun_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    process = torchrun("dies_alone", 1, "--standalone", NUMBERS=str(tmp_path))
    process_of_rank_0 = tmp_path / "0"
    while not process_of_rank_0.exists() or not process_of_rank_0.read_text():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(3)  # until it has joined
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + 30
    while (alive := Path("/proc", process_of_rank_0.read_text()).exists()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive


def test_facts_tell_recipes_apart() -> None:
    one, other = Recipe(name="x"), Recipe.model_validate({"name": "x", "sft": {"knowledge": {"tokens": 5000}}})
    assert facts(one) == facts(Recipe(name="x"))
    assert differences([facts(one), facts(other), facts(one)]).splitlines()[1] == (
        "  recipe: sft.knowledge.tokens: 5000 on rank 1; 600000 on the others"
    )
    assert len(code()) == 64


def test_files_are_compared(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "y")):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "config.json").write_text("{}")
        (tmp_path / name / "model" / "weights").write_text(text)
    (tmp_path / "samples.parquet").write_text("alike")
    os.utime(tmp_path / "b" / "model" / "config.json", (0, 0))  # copied at another time
    both = [tmp_path / name for name in "ab"]
    one, other = (files(place / "model", str(tmp_path / "samples.parquet")) for place in both)
    _, said, _ = differences([one, other]).splitlines()
    assert said.startswith("  file: model/weights: ")
    assert "on rank 1; " in said
    assert differences([files(place / "model" / "config.json") for place in both]) == ""


def test_where_torchrun_is_told_from_one_process() -> None:
    assert is_launched({"RANK": "0", "WORLD_SIZE": "2"})
    assert not is_launched({})
    assert not is_launched({"RANK": "0", "WORLD_SIZE": "1"})
