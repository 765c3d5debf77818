"""`open4ov route` over three real servers, all processes: affinity, a node killed under load, and its return."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from fake_node import wait
from PIL import Image
from test_generate import picture

KEY = "test-key"
pytestmark = pytest.mark.slow


class Process:
    """`open4ov ARGUMENTS` with a port of its own."""

    def __init__(self, *arguments: str, port: int | None = None) -> None:
        self.arguments = arguments
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "open4ov.cli", *self.arguments, "--port", str(self.port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPEN4OV_API_KEYS": KEY}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def get(self, path: str) -> str:
        request = urllib.request.Request(self.url + path, headers={"authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def up(self) -> bool:
        assert self.process.poll() is None, "it has stopped"
        try:
            return self.get("/health") == "ok\n"
        except OSError:
            return False

    def value(self, name: str) -> float:
        """The sum of a metric over its labels."""
        found = re.findall(rf"^open4ov:{name}(?:{{.*}})? (\S+)$", self.get("/metrics"), re.M)
        return sum(map(float, found))

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """Three nodes and a router."""

    def __init__(self, directory: Path) -> None:
        self.nodes = [Process("serve", str(directory), "--name", "tiny", "--keep-degenerate") for _ in range(3)]
        self.start_router()
        wait(lambda: all(one.up() for one in self.nodes), 300)
        self.all_healthy()

    def start_router(self) -> None:
        urls = [node.url for node in self.nodes]
        self.router = Process("route", *urls, "--health-interval", "0.2", "--drain", "60")

    def all_healthy(self) -> None:
        wait(lambda: alive(self.router.up) and self.router.value("router_node_healthy") == 3, 300)

    def client(self, url: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(api_key=KEY, base_url=f"{url or self.router.url}/v1", max_retries=0, timeout=300)

    def finished(self) -> list[float]:
        """Completions that each node has given."""
        return [node.value("request_success_total") for node in self.nodes]

    def close(self) -> None:
        for one in (self.router, *self.nodes):
            if one.process.poll() is None:
                one.kill()


def alive(up: Callable[[], bool]) -> bool:
    """Whether the router answers at all: it is not healthy before a node is."""
    try:
        return up()
    except OSError:
        return False


@pytest.fixture(scope="module")
def running(tiny_dir: Path) -> Iterator[Running]:
    running = Running(tiny_dir)
    yield running
    running.close()


def words(text: str, image: Image.Image | None = None) -> list[Any]:
    if image is None:
        return [{"role": "user", "content": text}]
    data = io.BytesIO()
    image.save(data, "png")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]}
    ]


def ask(client: openai.OpenAI, messages: list[Any], tokens: int = 8, session: str | None = None) -> str:
    headers = {"x-session-id": session} if session else {}
    found = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=tokens, temperature=0, extra_headers=headers
    )
    assert found.choices[0].finish_reason in ("stop", "length")
    return found.choices[0].message.content or ""


def stream(client: openai.OpenAI, messages: list[Any], tokens: int = 8) -> tuple[str, bool]:
    """The text, and whether it is whole."""
    text, reason = "", None
    try:
        for chunk in client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=tokens, temperature=0, stream=True
        ):
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
    except openai.APIError as error:  # an error event; anything else is a fault
        if error.code != "node_lost":
            raise
        return text, False
    assert reason in ("stop", "length")
    return text, True


def test_sessions_and_pictures_keep_their_nodes(running: Running) -> None:
    client = running.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    used = set[int]()
    for number in range(12):
        before = running.finished()
        for question in ("one", "two"):
            ask(client, words(question), session=f"s{number}")
        grown = [now - then for now, then in zip(running.finished(), before, strict=True)]
        assert sorted(grown) == [0, 0, 2]
        used.add(grown.index(2))
    assert len(used) > 1
    hits = [node.value("vision_cache_hits_total") + node.value("prefix_cache_hits_total") for node in running.nodes]
    for seed in range(4):
        before = running.finished()
        for question in ("left or right?", "what colour?"):
            ask(client, words(question, picture(seed)))
        grown = [now - then for now, then in zip(running.finished(), before, strict=True)]
        assert sorted(grown) == [0, 0, 2]
        place = grown.index(2)
        node = running.nodes[place]
        assert node.value("vision_cache_hits_total") + node.value("prefix_cache_hits_total") > hits[place]
    assert running.router.value("router_affinity_total") == 24 + 8 + 1


def test_openais_client_finds_what_a_node_says(running: Running) -> None:
    direct, routed = running.client(running.nodes[0].url), running.client()
    for messages in (words("1 + 1 ="), words("count", picture(3))):
        text = ask(direct, messages, 12)
        assert ask(routed, messages, 12) == text
        assert stream(routed, messages, 12) == (text, True)
    with pytest.raises(openai.BadRequestError, match="unknown option"):
        routed.chat.completions.create(model="tiny", messages=words("x"), extra_body={"chat_template": "x"})
    with pytest.raises(openai.AuthenticationError):
        routed.with_options(api_key="wrong").models.list()


def test_a_client_that_leaves_frees_the_node(running: Running) -> None:
    def aborted() -> float:
        return sum(node.value("requests_aborted_total") for node in running.nodes)

    before = aborted()
    with running.client().chat.completions.create(
        model="tiny", messages=words("long"), max_tokens=2000, temperature=0, stream=True
    ) as chunks:
        next(iter(chunks))
    wait(lambda: aborted() == before + 1)
    left = running.client().with_options(timeout=2)
    with pytest.raises(openai.APITimeoutError):
        left.chat.completions.create(
            model="tiny",
            messages=words("long"),
            max_tokens=2000,
            temperature=0,
            n=16,
            extra_body={"ignore_eos": True},
        )
    wait(lambda: aborted() == before + 2)
    assert all(node.value("num_requests_running") == 0 for node in running.nodes)


def test_a_node_killed_under_load(running: Running) -> None:
    direct, routed = running.client(running.nodes[1].url), running.client()
    asked = [words(f"say {number}", picture(number) if number % 3 == 0 else None) for number in range(12)]
    expected = [ask(direct, messages, 24) for messages in asked]
    first, killed = running.nodes[0], False
    began = first.value("request_success_total")

    def work(number: int) -> tuple[int, str, bool, bool]:
        place, late = number % len(asked), killed
        if number % 2:
            return place, *stream(routed, asked[place], 24), late
        return place, ask(routed, asked[place], 24), True, late

    with ThreadPoolExecutor(12) as pool:
        futures = [pool.submit(work, number) for number in range(60)]
        wait(lambda: first.value("request_success_total") >= began + 2 and first.value("num_requests_running"), 300)
        first.kill()
        killed = True
        found = [future.result() for future in futures]
    for place, text, whole, late in found:
        assert text == expected[place] if whole else expected[place].startswith(text)
        assert whole or not late, "a request made after the death must not meet it"
    assert running.router.value("router_failures_total") > 0
    assert running.router.value("router_requests_in_flight") == 0
    wait(lambda: running.router.value("router_node_healthy") == 2)
    failures = running.router.get("/metrics").count('reason="stream"')
    assert [ask(routed, messages, 24) for messages in asked] == expected
    assert running.router.get("/metrics").count('reason="stream"') == failures

    first.start()
    wait(lambda: alive(first.up), 300)
    running.all_healthy()
    for number in range(12):
        ask(routed, words("back?"), session=f"back{number}")
    assert first.value("request_success_total") > 0


def test_a_router_finishes_what_is_under_way_and_without_nodes_it_says_so(running: Running) -> None:
    router = running.router
    chunks = iter(
        running.client().chat.completions.create(
            model="tiny", messages=words("long"), max_tokens=200, temperature=0, stream=True
        )
    )
    next(chunks)
    router.process.send_signal(signal.SIGTERM)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[-1] in ("stop", "length")
    assert router.process.wait(60) == 0
    with pytest.raises(OSError, match="refused"):
        router.get("/health")

    running.start_router()
    running.all_healthy()
    for node in running.nodes:
        node.kill()
    wait(lambda: running.router.value("router_node_healthy") == 0)
    with pytest.raises(openai.InternalServerError) as raised:
        ask(running.client(), words("x"))
    assert raised.value.status_code == 503
    assert raised.value.code == "no_node"
    assert raised.value.response.headers["retry-after"] == "1"
