"""Stages that a server starts itself, one process each, and starts again when they die.

A child gets the secret in its environment, says on its output where it listens, and ends when its input closes, so none
outlives the server. A child that dies is started again after a pause that doubles as long as it dies young.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from open4ov.engine.disaggregated.metrics import StageMetrics
from open4ov.engine.disaggregated.shared import sweep
from open4ov.engine.disaggregated.transport import Address

log = logging.getLogger(__name__)
KEY = "OPEN4OV_STAGE_KEY"
"""The environment variable of the secret that stages and servers share"""
LISTENING = "listening at "
_PAUSE, _LONGEST, _YOUNG = 0.25, 30.0, 60.0


class Workers:
    """`count` processes of one kind of stage; `options` go to `open4ov stage` as they are."""

    def __init__(
        self, kind: str, model: Path, count: int, secret: str, metrics: StageMetrics, options: Sequence[str] = ()
    ) -> None:
        self.kind, self.metrics = kind, metrics
        command = [sys.executable, "-m", "open4ov.cli", "stage", kind, str(model)]
        self._command = [*command, "--listen", "127.0.0.1:0", "--until-closed", *options]
        self._environment = {**os.environ, KEY: secret}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self._addresses: dict[int, Address] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), name=f"{kind} worker", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def addresses(self) -> list[Address]:
        """Of those that listen now."""
        with self._lock:
            return [self._addresses[number] for number in sorted(self._addresses)]

    def wait(self, seconds: float = 600.0) -> bool:
        """Until all listen; False when one has died instead, or time is over."""
        end = time.monotonic() + seconds
        while len(self.addresses()) < len(self._threads):
            if time.monotonic() > end or self.metrics.value("stage_restarts", stage=self.kind):
                return False
            time.sleep(0.02)
        return True

    def stop(self) -> None:
        """Ends all of them."""
        self._stopping.set()
        with self._lock:
            running = list(self.processes.values())
        for process in running:
            assert process.stdin is not None
            process.stdin.close()
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        for thread in self._threads:
            thread.join()

    def _keep(self, number: int) -> None:
        pause = _PAUSE
        while True:
            with self._lock:
                if self._stopping.is_set():
                    return
                process = subprocess.Popen(
                    self._command,
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,  # Ctrl-C is the server's, which then ends them
                )
                self.processes[number] = process
            began = time.monotonic()
            self._follow(number, process)
            sweep(process.pid)
            if self._stopping.is_set():
                return
            self.metrics.count("stage_restarts", stage=self.kind)
            log.warning("%s stage %d ended with %s; it is started again", self.kind, number, process.returncode)
            pause = _PAUSE if time.monotonic() - began > _YOUNG else min(2 * pause, _LONGEST)
            self._stopping.wait(pause)

    def _follow(self, number: int, process: subprocess.Popen[str]) -> None:
        """Until the process has ended."""
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(LISTENING):
                name, _, port = line.removeprefix(LISTENING).strip().rpartition(":")
                with self._lock:
                    self._addresses[number] = name, int(port)
        process.wait()
        with self._lock:
            self._addresses.pop(number, None)
