"""How a router's process ends: in order when what was under way has finished, by the signal when it was cut off."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_node import Asked, FakeNode, said, wait

ASKED = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}]})


@pytest.fixture
def node() -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    node.stop()


def begun(node: FakeNode, drain: int) -> tuple[subprocess.Popen[str], int]:
    """A router over the node, once it listens, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "open4ov.cli", "route", node.url, "--port", str(port), "--drain", str(drain)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def listens() -> bool:
        assert process.poll() is None
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    wait(listens, 120)
    return process, port


def ask(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/v1/chat/completions", ASKED)
    return connection.getresponse().status


class Slow:
    """A node that answers when it is told to. `asked`: it has been asked."""

    def __init__(self, node: FakeNode) -> None:
        self.asked, self.go = threading.Event(), threading.Event()
        node.behaviour = self._answer

    def _answer(self, one: Asked) -> None:
        self.asked.set()
        self.go.wait(120)
        said("late")(one)


def test_what_is_under_way_finishes_and_the_status_is_zero(node: FakeNode) -> None:
    slow = Slow(node)
    process, port = begun(node, 60)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, port)
        assert slow.asked.wait(120)
        process.send_signal(signal.SIGTERM)
        wait(lambda: _refuses(port), 60)
        slow.go.set()
        assert answer.result() == 200
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert "Traceback" not in told


def test_what_is_cut_off_shows_in_the_status(node: FakeNode) -> None:
    slow = Slow(node)
    process, port = begun(node, 0)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, port)
        assert slow.asked.wait(120)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        slow.go.set()
        assert answer.exception() is not None or answer.result() == 500
    assert process.returncode == -signal.SIGTERM


def _refuses(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0
