"""Addresses of servers: a free port is told once it listens, one in use is told of before anything is loaded."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def command(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPEN4OV_STAGE_KEY": "x" * 32}
    return subprocess.Popen(
        [sys.executable, "-m", "open4ov.cli", *words], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["serve", "route", "stage"])
def test_a_port_in_use_is_told_of(tiny_dir: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = {
            "serve": ("serve", str(tiny_dir), "--port", port),
            "route": ("route", "http://127.0.0.1:1", "--port", port),
            "stage": ("stage", "encode", str(tiny_dir), "--listen", f"127.0.0.1:{port}"),
        }[kind]
        process = command(*words)
        told = process.communicate(timeout=120)[1]
    assert process.returncode == 2, told
    assert ("--listen" if kind == "stage" else "--port") in told
    assert port in told
    assert "at http://" not in told


def test_a_free_port_is_told_once_it_listens() -> None:
    process = command("route", "http://127.0.0.1:1", "--port", "0")
    try:
        assert process.stderr is not None
        found = re.search(r"at http://127\.0\.0\.1:(\d+)/v1", process.stderr.readline())
        assert found is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 503  # there is no node
    finally:
        process.terminate()
        process.communicate(timeout=60)
