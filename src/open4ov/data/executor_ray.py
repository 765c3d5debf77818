"""`data.executor: ray`: the steps of data construction by worker processes of Ray Data, on one machine or many.

The run's folder (images, working folder) must be on a file system that all nodes share: chunks are read and written
there, and a worker is told numbers only. Kept answers and the book of costs are one actor's, on the driver's node
(shared_desk.py): SQLite is not right over a network. API keys come from the environment of each worker, so on a cluster
of several machines they must be set where Ray is started; no key travels in a task.

A worker that dies is started again and does its chunk again; answers that it had are kept, so only requests that were
under way are sent a second time. A chunk that fails `TRIES` times so ends the stage.
"""

# ray is an extra, and carries few types:
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false, reportAttributeAccessIssue=false
from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open4ov.data.chunk_steps import STEPS
from open4ov.data.executor import Chunk
from open4ov.data.hygiene import Tell
from open4ov.data.task import Task, Tools
from open4ov.data.working import Work
from open4ov.errors import UserError
from open4ov.mllm.ask import Asker
from open4ov.mllm.local import Local
from open4ov.mllm.shared_desk import Counter, SharedDesk
from open4ov.recipe import DataSection

NAMES = {
    "clean": "looking at images",
    "match": "matching labels",
    "fine": "matching topics",
    "write": "writing questions",
    "judge": "judging",
}
"""How progress is called where a step's parts cannot be told apart"""
TRIES = 5
THREADS = 64
"""Calls that the desk's actor takes at once"""
STORE = 128 * 2**20
"""Bytes of the object store of a cluster that is started here: only numbers go through it"""


class Cluster:
    """Ray's workers as an executor, for the time of a `with` block. `asker` is for the driver's own questions.

    Raises UserError when ray is not installed, or the cluster does not answer in time.
    """

    def __init__(self, task: Task, place: Path | None) -> None:
        self._task = dataclasses.replace(
            task, source=task.source.resolve(), store=task.store.resolve(), work=task.work.resolve()
        )
        self._place = place.resolve() if place else None
        self._ray: Any = None
        self._started = False

    def __enter__(self) -> Cluster:
        settings = self._task.section.executor
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            import ray
            import ray.data
        except ImportError:
            raise UserError(
                "data.executor: ray is not installed; pip install 'open4ov[ray]', or use data.executor: local"
            ) from None
        if settings.address is not None:
            if self._task.section.local_only:
                local = Local(self._task.section.local_hosts)
                local.check(f"http://{settings.address}", "data.executor.address")
            _answers(settings.address, settings.timeout)
        self._ray = ray
        if not ray.is_initialized():
            self._started = True
            here: dict[str, Any] = {"address": settings.address} if settings.address else {
                "num_cpus": math.ceil(settings.workers * settings.cpus), "object_store_memory": STORE,
                "include_dashboard": False,
            }  # fmt: skip
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
            except Exception as error:  # ray raises bare ones here
                ray.shutdown()
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"data.executor: Ray did not start: {reason} The same command tries again") from error
        for name in ("ray.data", "ray"):
            logging.getLogger(name).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        self._mark = f"{uuid.uuid4().hex}.mark"
        self._task.work.mkdir(parents=True, exist_ok=True)
        (self._task.work / self._mark).touch()
        on_this_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        options = {"num_cpus": 0, "max_concurrency": THREADS, "scheduling_strategy": on_this_node}
        self._counter = ray.remote(Counter).options(**options).remote(self._task.section, self._place)
        self.asker = _asker(self._task.section, self._counter)
        return self

    def __exit__(self, *_: object) -> None:
        (self._task.work / self._mark).unlink(missing_ok=True)
        if isinstance(self.asker.desk, SharedDesk):
            self.asker.desk.close()
        self.asker.close()
        if self._started:
            self._ray.shutdown()

    def run(self, step: str, chunks: Sequence[Chunk], tell: Tell) -> None:
        work = Work(self._task.work)
        sizes = {chunk.number: chunk.size for chunk in chunks}
        left = [chunk for chunk in chunks if not work.done(step, chunk.number)]
        total, done = sum(sizes.values()), sum(sizes.values()) - sum(chunk.size for chunk in left)
        report = tell(NAMES[step])
        if not left:
            return
        settings = self._task.section.executor
        rows = [{"number": chunk.number, "told": json.dumps(chunk.told)} for chunk in left]
        found = self._ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Worker,
            fn_constructor_args=(self._task, step, self._counter, self._mark),
            concurrency=min(settings.workers, len(left)),
            num_cpus=settings.cpus,
            max_restarts=TRIES,
            max_task_retries=TRIES,
        )
        try:
            for row in found.iter_rows():
                if row["fault"]:
                    raise UserError(row["fault"])
                done += sizes[row["number"]]
                if report:
                    report(done, total)
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"data.executor: Ray gave up on step {step}: {reason}. What is done is kept: the same command goes on"
            ) from error
        missing = [chunk.number for chunk in left if not work.done(step, chunk.number)]
        if missing:
            raise UserError(
                f"data.executor: {len(missing)} chunks that workers have done are not in {work.root}; all nodes must "
                "share the run's folder"
            )


class _Worker:
    """One worker process: does chunks of one step."""

    def __init__(self, task: Task, step: str, counter: Any, mark: str) -> None:
        self._work, self._step, self._fault = task.work, step, ""
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a worker asks Ray for no card; all of them would answer on the first
        if not (task.work / mark).exists():
            self._fault = f"data.executor: {task.work} is not there on {os.uname().nodename}; all nodes must share it"
            return
        try:
            self._asker = _asker(_share(task.section), counter)
            self._tools = Tools(task, self._asker)
        except UserError as error:
            self._fault = f"{error} (on {os.uname().nodename})"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["number"])
        if not self._fault:
            try:
                STEPS[self._step](self._tools, number, **json.loads(row["told"]))
                if isinstance(self._asker.desk, SharedDesk):
                    self._asker.desk.tell()
            except UserError as error:
                return {"number": number, "fault": str(error)}
        return {"number": number, "fault": self._fault}


def _asker(section: DataSection, counter: Any) -> Asker:
    """One whose kept answers and costs lie with the actor. The actor is not asked where no endpoint is."""
    if all(one.kind != "openai" for one in section.providers.values()) and section.embedder.endpoint is None:
        return Asker(section)
    import ray

    def call(method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(counter, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise

    return Asker(section, desk=SharedDesk(section, call))


def _share(section: DataSection) -> DataSection:
    """The options of one of several workers: its share of what a provider takes at once."""
    workers = section.executor.workers
    providers = {
        name: one.model_copy(update={"concurrency": max(1, one.concurrency // workers)})
        if one.kind == "openai"
        else one
        for name, one in section.providers.items()
    }
    embedder, endpoint = section.embedder, section.embedder.endpoint
    if endpoint is not None:
        share = endpoint.model_copy(update={"concurrency": max(1, endpoint.concurrency // workers)})
        embedder = embedder.model_copy(update={"endpoint": share})
    return section.model_copy(update={"providers": providers, "embedder": embedder})


def _answers(address: str, seconds: float) -> None:
    """Raises UserError unless a Ray cluster answers at the address in time."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode != 0:
        raise UserError(
            f"data.executor.address: no Ray cluster answered at {address} within {seconds:g} s; start one "
            "(ray start --head, and ray start --address=... on the other machines), or leave the address empty for one "
            "on this machine"
        )
