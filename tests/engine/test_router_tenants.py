"""A router with a key of its own for its nodes: its clients stay apart there, over real servers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_node import RunningRouter, wait
from test_server import Running

from open4ov.engine.serving.gate import Gate
from open4ov.engine.serving.keys import TENANT

NODE_KEY = "node-key"
LONG = [{"role": "user", "content": "one two three four five six seven eight nine ten " * 8}]


@pytest.fixture(scope="module")
def routed(tiny_dir: Path) -> Iterator[tuple[RunningRouter, Running]]:
    node = Running(tiny_dir, keys=["own"], serving={"router_keys": [NODE_KEY]})
    named: Any = SimpleNamespace(url=f"http://127.0.0.1:{node.port}", close=node.close)
    router = RunningRouter([named], ("alice", "bob"), NODE_KEY)
    wait(lambda: all(one.healthy for one in router.nodes.all.values()))
    yield router, node
    router.server.should_exit = True
    router.thread.join(10)
    node.close()


def told(client: str) -> str:
    return hmac.new(NODE_KEY.encode(), client.encode(), hashlib.sha256).hexdigest()


def ask(router: RunningRouter | Running, method: str, path: str, key: str, body: object, *said: str) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {key}", **dict.fromkeys(said and (TENANT,), *said)}
    return RunningRouter.ask(router, method, path, body, headers)[:2]  # type: ignore[arg-type]


def cached(router: RunningRouter | Running, key: str, *said: str) -> int:
    body = {"model": "tiny", "messages": LONG, "max_tokens": 1}
    status, content = ask(router, "POST", "/v1/chat/completions", key, body, *said)
    assert status == 200, content
    return content["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_clients_of_a_router_stay_apart_at_its_nodes(routed: tuple[RunningRouter, Running]) -> None:
    router, node = routed
    assert cached(router, "alice") == 0
    assert cached(router, "alice") > 0
    assert cached(router, "bob", told("alice")) == 0  # what a client says itself does not go on
    assert cached(node, "own", told("alice")) == 0  # nor is it believed
    status, session = ask(router, "POST", "/v1/sessions", "alice", {"model": "tiny"})
    assert status == 201, session
    path = f"/v1/sessions/{session['id']}"
    assert ask(router, "GET", path, "bob", None)[0] == 404
    assert ask(node, "GET", path, "own", None, told("alice"))[0] == 404
    assert ask(router, "GET", path, "alice", None)[0] == 200
    assert ask(router, "DELETE", path, "alice", None)[0] == 200
    assert ask(node, "GET", "/v1/models", NODE_KEY, None)[0] == 200
    assert ask(node, "GET", "/v1/models", "alice", None)[0] == 401


def test_a_tenant_is_believed_beside_a_routers_key_only(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(["own"], max_per_key=1, router_keys=["r", "other"])
    a, b = gate.tenant("Bearer r", "a"), gate.tenant("Bearer r", "b")
    assert len({a, b, gate.tenant("Bearer r"), gate.tenant("Bearer other", "a"), gate.tenant("Bearer own")}) == 5
    assert gate.tenant("Bearer r", "a") == a
    assert gate.tenant("Bearer nobody", "a") is None
    assert not caplog.records
    assert gate.tenant("Bearer own", "a") == gate.tenant("Bearer own")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with gate.visit(a or ""), gate.visit(b or ""):  # each has its own one
        pass
