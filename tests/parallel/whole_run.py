"""Whole runs under torchrun, for `test_whole_run.py`: the recipe, its functions, and the processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from open4ov.answers import boxed, correct
from open4ov.sample import Sample

RECIPE = """name: tiny
threads: 1
images: {per_symbol: 1, general_count: 40}
parallel: {dp_shard: 2, timeout: 600}
admission:
  mastery: {rollouts: 2, samples: 8}
sft:
  precision: fp32
  pack_tokens: 1024
  accumulate: 2
  checkpoint_every: 1
  knowledge: {tokens: 12000, freeze_vision: true}
  ability: {tokens: 12000}
  preference: {tokens: 8000}
rl:
  precision: fp32
  steps: 3
  prompts: 4
  group: 4
  pass_k: 2
  max_tokens: 8
  length_max: 8
  length_soft: 4
  checkpoint_every: 1
  reward: whole_run:odd
dpo:
  precision: fp32
  pairs: 16
  batch: 4
  mined: whole_run:longest
  mix: {mined: 0.9, brevity: 0.1}
evaluate: {items: 2, samples: 2, sampled_items: 2, max_tokens: 4}
"""
KILL = "KILL_AT_REWARD"
"""Names a file with a number: the process of rank 1 is killed at that reward, once"""
_rewards = 0


def odd(response: str, sample: Sample) -> float:
    """A random model's answers are right half of the time, so that there is something to learn."""
    global _rewards
    _rewards += 1
    told = Path(os.environ.get(KILL, "nothing"))
    if os.environ.get("RANK") == "1" and told.exists() and _rewards == int(told.read_text()):
        told.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if boxed(response) is not None:
        return float(correct(response, sample.answer or "", sample.aliases))
    return float(len(response) % 2)


def longest(sample: Sample, responses: Sequence[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def start(folder: Path, out: str, *options: str, processes: int = 2, **environment: str) -> subprocess.Popen[str]:
    """The recipe `tiny.yaml` of the folder. `processes` 1: without torchrun."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    options = (*options, "--quiet") if processes > 1 else (*options, "--quiet", "--set", "parallel.dp_shard=1")
    paths = os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])
    return subprocess.Popen(
        [
            sys.executable,
            *(launch if processes > 1 else ()),
            "-m",
            "open4ov",
            "run",
            "tiny.yaml",
            "--out",
            out,
            *options,
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_end_with_parent,
    )


def kill_rank(torchrun: subprocess.Popen[str], rank: int, when: Callable[[], object]) -> None:
    """Kills the process of a rank once `when` holds."""
    until = time.monotonic() + 600
    while not when():
        assert torchrun.poll() is None, torchrun.communicate()[1]
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)
    os.kill(_process(torchrun.pid, rank), signal.SIGKILL)


def _process(parent: int, rank: int) -> int:
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
                return int(child)
    raise AssertionError(f"torchrun has no process of rank {rank}")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a test that is killed leaves no processes
