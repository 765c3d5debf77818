"""torchrun starts all ranks again when one was killed, and they end as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import elastic
import pytest
import world
from safetensors.torch import load_file
from spread import same
from test_parallel_checkpoint import trained

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(tiny_dir: Path, tmp_path: Path) -> None:
    script = Path(elastic.__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    paths = os.pathsep.join(str(folder) for folder in (script.parent, script.parents[1], *sys.path) if str(folder))
    done = subprocess.run(
        [*command, str(script), str(tiny_dir), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert (tmp_path / f"begun-{rank}").read_text().split() == ["0", str(elastic.KILLED_AT - 1)]
    steps = list(range(1, elastic.STEPS + 1))
    straight = world.run(trained, 2, tiny_dir, None, {}, steps, False)
    assert not same(load_file(tmp_path / "weights.safetensors"), straight[0][0])
