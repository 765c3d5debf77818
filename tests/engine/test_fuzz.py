"""Requests drawn from what the server says of itself (`/openapi.json`), right ones and wrong ones, at a real server:
no fault of its own, errors in one shape, and afterwards it answers what it answered before."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_generate import picture
from test_server import ONE, Running, url, wait

ODD: list[Any] = [None, True, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 1e308, -0.5, math.nan, math.inf, [], [[]], {}]
ODD += ["", "x", "\0", "é" * 99, "<|im_end|>", {"type": "text"}, {"": None}, [None], "data:image/png;base64,AAAA"]
PICTURE = url(picture(1))
KNOWN: dict[str, Any] = {"model": "tiny", "url": PICTURE, "role": "user", "content": "what is it?"}
"""Values of properties that are seldom right by chance"""


@pytest.fixture(scope="module")
def server(tiny_dir: Path) -> Iterator[Running]:
    running = Running(tiny_dir, kv_tokens=2048)
    yield running
    running.close()


class Drawing:
    """Values for the schemas of an OpenAPI document. Each may be replaced by an odd one."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def value(self, schema: dict[str, Any], name: str = "", depth: int = 0) -> st.SearchStrategy[Any]:
        right = self._right(schema, name, depth)
        return st.integers(0, 29).flatmap(lambda chance: st.sampled_from(ODD) if chance == 7 else right)

    def _right(self, schema: dict[str, Any], name: str, depth: int) -> st.SearchStrategy[Any]:
        if "$ref" in schema:
            part = schema["$ref"].rpartition("/")[2]
            return self._right(self.document["components"]["schemas"][part], name, depth)
        if name in KNOWN:
            return st.one_of(st.just(KNOWN[name]), self._plain(schema, name, depth))
        return self._plain(schema, name, depth)

    def _plain(self, schema: dict[str, Any], name: str, depth: int) -> st.SearchStrategy[Any]:
        if "anyOf" in schema:
            return st.one_of(*(self._right(one, "", depth) for one in schema["anyOf"]))
        if "const" in schema or "enum" in schema:
            return st.sampled_from(schema.get("enum") or [schema["const"]])
        kind = schema.get("type")
        if kind == "object" and "properties" in schema:
            parts: dict[str, Any] = schema["properties"]
            needed = {key: self.value(parts[key], key, depth + 1) for key in schema.get("required", ())}
            others = {key: self.value(part, key, depth + 1) for key, part in parts.items() if key not in needed}
            few = st.lists(st.sampled_from(sorted(others)), max_size=4, unique=True) if others else st.just([])
            return few.flatmap(lambda keys: st.fixed_dictionaries({**needed, **{key: others[key] for key in keys}}))
        if kind == "array":
            return st.lists(self.value(schema["items"], "", depth + 1), min_size=schema.get("minItems", 0), max_size=3)
        if kind in ("integer", "number"):
            low, high = _bounds(schema)
            if kind == "integer":
                return st.one_of(st.integers(low, min(high, low + 8)), st.integers(low - 1, high + 1))
            return st.floats(low, high, allow_nan=False)
        if kind == "boolean":
            return st.booleans()
        if kind == "null":
            return st.none()
        if kind == "string":
            return st.text(max_size=20)
        return st.dictionaries(st.text(max_size=5), st.sampled_from(ODD), max_size=3)


def _bounds(schema: dict[str, Any]) -> tuple[Any, Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -(10**6)))
    return low, schema.get("maximum", schema.get("exclusiveMaximum", 10**6))


def check(server: Running, method: str, path: str, body: bytes | None, allowed: set[str]) -> int:
    """Sends a request; what comes back is whole, in shape, and no fault of the server."""
    status, content, headers = server.ask(method, path, body)
    assert status < 500, (method, path, body, content)
    assert str(status) in allowed, (status, content)
    assert headers["x-request-id"]
    if status == 201:
        assert server.ask("DELETE", f"{path}/{content['id']}")[0] == 200
    if status >= 400:
        assert set(content) == {"error"}
        assert set(content["error"]) == {"message", "type", "param", "code"}
        assert isinstance(content["error"]["message"], str)
        assert 0 < len(content["error"]["message"]) < 500
    return status


def fuzz(server: Running, examples: int) -> None:
    document = server.ask("GET", "/openapi.json")[1]
    expected = server.post(messages=ONE, temperature=0, max_tokens=5)[1]["choices"]
    drawing, seen = Drawing(document), list[int]()
    routes = [(path, way, told) for path, ways in document["paths"].items() for way, told in ways.items()]
    routes += [route for route in routes if "requestBody" in route[2]] * 30

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: st.DataObject) -> None:
        path, way, told = data.draw(st.sampled_from(routes))
        body = None
        if "requestBody" in told:
            schema = told["requestBody"]["content"]["application/json"]["schema"]
            content = data.draw(drawing.value(schema))
            if isinstance(content, dict) and not content.get("max_tokens"):
                content["max_tokens"] = 3
            body = json.dumps(content).encode("utf-8", "surrogatepass")
            cut = data.draw(st.integers(0, 40))
            if cut == 40:
                body = body[: len(body) // 2]
        seen.append(check(server, way.upper(), path, body, set(told["responses"])))

    run()
    assert 200 in seen
    assert 400 in seen
    wait(lambda: not server.engine.busy, 60)
    assert server.engine.pool.available == server.engine.pool.count
    gate = server.app.state.gate
    wait(lambda: gate.under_way == 0, 60)  # an answer is there a moment before its visit is over
    assert gate.room.held == 0
    assert server.post(messages=ONE, temperature=0, max_tokens=5)[1]["choices"] == expected


def test_a_short_run(server: Running) -> None:
    fuzz(server, 100)


@pytest.mark.slow
def test_a_longer_run(server: Running) -> None:
    fuzz(server, 3000)


def test_what_is_described_is_what_there_is(server: Running) -> None:
    document = server.ask("GET", "/openapi.json")[1]
    described = {(path, way.upper()) for path, ways in document["paths"].items() for way in ways}
    served = {
        (route.path, method)
        for owner in (server.app, *(getattr(route, "original_router", None) for route in server.app.routes))
        for route in getattr(owner, "routes", ())
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
    }
    assert described == served
    assert len(served) > 12
    asked = document["components"]["schemas"]["ChatRequest"]
    assert asked["required"] == ["model", "messages"]
    assert asked["additionalProperties"] is False
    assert asked["properties"]["n"]["maximum"] == 64
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert name in document["components"]["schemas"]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert document["security"] == [{"key": []}]
