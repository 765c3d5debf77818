"""Proxies of the environment: the official client's own choice is the oracle, and a proxy on this machine the proof."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from endpoint import endpoint

from open4ov.errors import UserError
from open4ov.mllm import Asker, Prompt, ProviderError
from open4ov.mllm.answers import Judgement
from open4ov.mllm.proxies import proxy_of
from open4ov.recipe import DataSection, ProviderSection

GOOD = '{"score": 1, "reason": "fine"}'
URLS = [
    "http://example.com/v1", "https://example.com/v1", "https://api.example.com/v1", "https://badexample.com/v1",
    "https://example.com:8443/v1", "http://localhost:8000/v1", "http://127.0.0.1:9/v1", "http://10.1.2.3/v1",
    "http://[::1]:8/v1", "http://[2001:db8::5]/v1", "https://API.Example.COM/v1", "http://model.localhost/v1",
    "http://a.127.0.0.1.nip.example/v1",
]  # fmt: skip
NONE_FOR = [
    "", "*", "example.com", ".example.com", "*.example.com", "EXAMPLE.com", "example.com:8443", "https://example.com",
    "http://example.com", "https://*.example.com", "https://", "localhost", "127.0.0.1", "127.0.0.1:9", "10.0.0.0/8",
    "10.0.0.0/33", "10.1.2.3/8", "::1", "[::1]", "[::1]:8", "2001:db8::/32", "example.com,127.0.0.1", " foo , *",
    ".com", "all://example.com", "com", "exa mple", "example.com/x",
]  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")


@pytest.mark.parametrize(
    "named",
    [{"http_proxy": "http://p:1", "https_proxy": "http://q:2"}, {"ALL_PROXY": "http://r:3"}, {"HTTPS_PROXY": "s:4"}],
)
@pytest.mark.parametrize("none_for", NONE_FOR)
def test_the_official_client_would_take_the_same(
    none_for: str, named: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**named, "NO_PROXY": none_for}.items():
        monkeypatch.setenv(name, value)
    with httpx2.Client() as client:
        for url in URLS:
            pool: Any = getattr(client._transport_for_url(httpx2.URL(url)), "_pool", None)
            proxy = getattr(pool, "_proxy_url", None)
            taken = proxy and f"{proxy.scheme.decode()}://{proxy.host.decode()}:{proxy.port}"
            assert proxy_of(url, "x") == taken, url


def test_a_usual_port_in_no_proxy_is_that_of_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", "example.com:443")
    assert proxy_of("https://example.com/v1", "x") is None
    assert proxy_of("http://example.com/v1", "x") == "http://p:1"


@contextmanager
def tunnel(status: int, port: int) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that answers CONNECT with a status, then passes everything on to a port of this machine."""
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def passing(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            return
        finally:
            target.close()

    def serve() -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += one.recv(65536)
            asked.append(head)
            one.sendall(b"HTTP/1.1 %d x\r\n\r\n" % status)
            if status != 200:
                one.close()
                continue
            other = socket.create_connection(("127.0.0.1", port))
            for pair in ((one, other), (other, one)):
                threading.Thread(target=passing, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}", asked
    finally:
        server.close()


def asker(url: str, **more: Any) -> Asker:
    provider = ProviderSection(kind="openai", base_url=url, model="m", api_key_env="TEST_KEY", retries=0)
    return Asker(DataSection(providers={"default": provider}, **more))


def ask(asking: Asker) -> Any:
    return asking.ask("judge_1", Prompt("judge", {"topic": "t", "question": "q", "answer": "a"}), (), Judgement)


def test_a_https_endpoint_is_reached_through_the_tunnel_of_https_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but CONNECT and what TLS sends goes through it; behind it nobody speaks TLS, so that is where it ends."""
    with endpoint(lambda body, number: GOOD) as server:
        port = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
        with tunnel(200, port) as (address, asked):
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:word@{address}")
            with pytest.raises(ProviderError):
                ask(asker("https://model.invalid/v1"))
        assert asked[0].startswith(b"CONNECT model.invalid:443 HTTP/1.1\r\n")
        assert base64.b64encode(b"me:word") in asked[0]
        assert b"a-secret-of-this-test" not in b"".join(asked)
        assert server.bodies == []


def test_a_proxy_that_refuses_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with tunnel(407, 9) as (address, asked):
        monkeypatch.setenv("HTTPS_PROXY", address)
        with pytest.raises(ProviderError, match="the proxy of the environment refuses"):
            ask(asker("https://model.invalid/v1"))
    assert len(asked) == 1


def test_what_no_proxy_lists_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda body, number: GOOD) as server, endpoint(lambda body, number: GOOD) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        assert ask(asker(server.url)) == {"score": 1, "reason": "fine"}
        assert (len(server.bodies), len(proxy.bodies)) == (0, 1)
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert ask(asker(server.url)) == {"score": 1, "reason": "fine"}
        assert (len(server.bodies), len(proxy.bodies)) == (1, 1)


def test_with_local_only_no_proxy_is_ever_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda body, number: GOOD) as server, endpoint(lambda body, number: GOOD) as proxy:
        for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        assert ask(asker(server.url, local_only=True)) == {"score": 1, "reason": "fine"}
        assert (len(server.bodies), len(proxy.bodies)) == (1, 0)
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
        assert ask(asker(server.url, local_only=True)) == {"score": 1, "reason": "fine"}


def test_a_proxy_that_cannot_be_used_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(UserError, match=r"data\.providers\.default\.base_url: the environment names a socks5 proxy"):
        asker("https://model.invalid/v1")
