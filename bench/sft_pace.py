"""A training that runs in blocks of steps on command, so that two of them can take turns step by step on one machine.

The worker trains in its own process; after the last step of a block it reports and waits for the next command. Lines
of JSON: commands on standard input ({"steps": n}), reports on standard output behind an "@". Standard library only: the
peer's worker runs it in the peer's environment, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Pace:
    """The worker's side: `begin` before the training, `step` after each of its steps, `end` when it is over."""

    def __init__(self) -> None:
        self._left = 0
        self._steps: list[dict[str, Any]] = []
        self._began = self._computed = 0.0

    def begin(self) -> None:
        """Waits for the first block."""
        self._wait()

    def step(self, **figures: Any) -> None:
        """A step is done; `figures` go into the report of its block. Waits where a block ends."""
        self._steps.append(figures)
        self._left -= 1
        if not self._left:
            self._report()
            self._wait()

    def end(self, **figures: Any) -> None:
        """Nothing is left to train: what was done of the block, and `figures`."""
        self._report(end=True, **figures)

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            sys.exit("the other side has gone")
        self._left = json.loads(line)["steps"]
        self._steps = []
        Path("/proc/self/clear_refs").write_text("5")
        self._began, self._computed = time.perf_counter(), time.process_time()

    def _report(self, **more: Any) -> None:
        said = {
            "seconds": time.perf_counter() - self._began,
            "cpu": time.process_time() - self._computed,
            "peak": peak(),
            "steps": self._steps,
            **more,
        }
        print("@" + json.dumps(said), flush=True)


def peak() -> int:
    """Bytes: the process's highest resident memory since the mark was last set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Worker:
    """The other side: a worker process, `python -m MODULE ARGUMENTS` from the repository's root, on one thread."""

    def __init__(self, python: Path | str, module: str, arguments: Sequence[str], log: Path, threads: int = 1) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment |= {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(threads),
        }
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=environment,
            )

    def block(self, steps: int) -> dict[str, Any]:
        """Lets it train so many steps; its report. Raises RuntimeError with the end of its log when it has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; what it wrote is read below
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        code = self._process.wait()
        raise RuntimeError(f"the worker ended with {code}:\n{self._log.read_text(errors='replace')[-3000:]}")

    def close(self) -> None:
        """Ends the process and waits for it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
