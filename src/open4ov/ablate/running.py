"""Brings the runs of a plan up to date: seeds side by side, the arms of a seed one after another.

Before an arm is run, every stage that another run has made already is linked into it (`sharing.py`); what is finished
is left alone. So an interrupted command, given again, goes on where it was, and a run that failed is tried again. A
failed run stops no other: it is told, and the claims that need it are left open.
"""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from open4ov.ablate import child
from open4ov.ablate.plan import Plan, Run, donors_of
from open4ov.ablate.sharing import adopt
from open4ov.errors import UserError

Failures = dict[tuple[str, int], str]
"""(arm, seed) -> what its run said"""


class Runner:
    """The runs under way. `tell` gets a line about each; `given` are further runs that stages may be linked from."""

    def __init__(self, plan: Plan, jobs: int, tell: Callable[[str], None], given: Sequence[Path] = ()) -> None:
        self.plan = plan
        self.jobs = jobs
        self.tell = tell
        self.given = given
        self.failures: Failures = {}
        self._stopped = threading.Event()
        self._children: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def run(self) -> Failures:
        """Raises KeyboardInterrupt after Ctrl-C, when all that was started has ended."""
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            waiting = [pool.submit(self._seed, seed) for seed in self.plan.seeds]
            try:
                for one in concurrent.futures.as_completed(waiting):
                    one.result()
            except BaseException:
                self._stop()
                for one in waiting:
                    one.cancel()
                raise
        return self.failures

    def _stop(self) -> None:
        self._stopped.set()
        with self._lock:
            for process in self._children:
                process.terminate()

    def _seed(self, seed: int) -> None:
        for run in self.plan.of_seed(seed):
            if self._stopped.is_set():
                return
            try:
                self._one(run)
            except UserError as error:
                if not self._stopped.is_set():
                    self.failures[run.arm.name, seed] = str(error)
                    self.tell(f"seed {seed}: {run.arm.name}: failed: {error}")

    def _one(self, run: Run) -> None:
        arm = run.arm
        stages = run.graph.needed(arm.until)
        donors = donors_of(self.plan.out, arm.seed, self.given)
        run.place.parent.mkdir(parents=True, exist_ok=True)
        linked = adopt(run.graph, arm.recipe, run.place, donors, arm.until)
        missing = len(stages) - len(run.graph.finished(stages, arm.recipe, run.place))
        shared = f", {len(linked)} linked from other runs" if linked else ""
        if not missing:
            self.tell(f"seed {arm.seed}: {arm.name}: all {len(stages)} stages are there{shared}")
            return
        self.tell(f"seed {arm.seed}: {arm.name}: {missing} of {len(stages)} stages to make{shared}")
        began = time.monotonic()
        self._process(run)
        self.tell(f"seed {arm.seed}: {arm.name}: done in {time.monotonic() - began:.0f} s")

    def _process(self, run: Run) -> None:
        """A process of its own: its memory goes back when it ends, and its faults are its own."""
        threads = run.arm.recipe.threads or max(1, (os.cpu_count() or 1) // self.jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), child.PARENT: str(os.getpid())}
        with self._lock:
            if self._stopped.is_set():
                return
            process = subprocess.Popen(
                command(run, self.plan.claims.recipe),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            self._children.add(process)
        try:
            _, said = process.communicate()
        finally:
            with self._lock:
                self._children.discard(process)
        if process.returncode:
            raise UserError(_last_words(said) or f"the run ended with code {process.returncode}")


def command(run: Run, recipe: Path) -> list[str]:
    """The run of an arm, as `open4ov run` has it."""
    words = [sys.executable, "-m", "open4ov.ablate.child", "run", str(recipe), "--out", str(run.place)]
    words += ["--until", run.arm.until, "--quiet"]
    return [*words, *(word for one in run.arm.overrides for word in ("--set", one))]


def _last_words(said: str) -> str:
    """What the run itself told, without what libraries say."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    own = next((place for place, line in enumerate(lines) if line.startswith("open4ov: ")), None)
    return "\n".join(lines[own:]).removeprefix("open4ov: ") if own is not None else "\n".join(lines[-5:])
