"""Servers of `open4ov rollout` as processes of their own, for tests."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "src"


class Node:
    """One server of the model in `directory`, which reads weights from `folder`. It is there once `url` was asked for.
    `port` 0: a free one; `keys`: those that are let in."""

    def __init__(self, directory: Path, folder: Path, log: Path, port: int = 0, keys: str = "", *options: str) -> None:
        self.log = log
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "OPEN4OV_API_KEYS": keys}
        command = [sys.executable, "-m", "open4ov", "rollout", str(directory), "--folder", str(folder)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "--port", str(port), "--precision", "fp32", *options],
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    @property
    def url(self) -> str:
        end = time.monotonic() + 180
        while True:
            text = self.log.read_text(errors="replace")
            if found := re.search(r"rollouts at (http://\S+)", text):
                return found[1]
            assert self.process.poll() is None, text
            assert time.monotonic() < end, f"waited in vain: {text}"
            time.sleep(0.05)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, key: str = "") -> str:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def version(self, key: str = "") -> Any:
        return json.loads(self.get("/weight_info", key))["weight_version"]

    def tokens(self) -> int:
        """Sampled so far."""
        found = re.search(r"^\S*generation_tokens\S* (\d+)", self.get("/metrics"), re.MULTILINE)
        assert found, self.get("/metrics")
        return int(found[1])

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a test that is killed leaves no servers
