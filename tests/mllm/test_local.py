"""`local_only`: nothing leaves this machine, whatever a name leads to and whenever."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from endpoint import endpoint

from open4ov.errors import UserError
from open4ov.mllm import AnswerError, Asker, Prompt, ProviderError, Request
from open4ov.mllm.answers import Judgement
from open4ov.mllm.local import Local
from open4ov.recipe import DataSection, ProviderSection

GOOD = '{"score": 1, "reason": "fine"}'


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")


def names(monkeypatch: pytest.MonkeyPatch, **addresses: str | list[str]) -> list[str]:
    """Makes names resolve so, one address after the other if there are several; others do not resolve."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        host = host.decode() if isinstance(host, bytes) else host
        if host not in addresses:
            if host.replace(".", "").isdigit():
                return real(host, port, *rest, **more)
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        asked.append(host)
        given = addresses[host]
        address = given if isinstance(given, str) else given[min(asked.count(host), len(given)) - 1]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port or 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/v1", "http://127.8.9.1/v1", "http://[::1]:9/v1", "http://0.0.0.0:9/v1"]
)
def test_this_machine(url: str) -> None:
    Local([]).check(url, "x")


@pytest.mark.parametrize("url", ["http://192.0.2.7/v1", "https://[2001:db8::1]/v1", "http://8.8.8.8:8000/v1"])
def test_other_addresses(url: str) -> None:
    with pytest.raises(UserError, match=r"data\.providers\.a\.base_url: data\.local_only is set"):
        Local([]).check(url, "data.providers.a.base_url")
    Local(["192.0.2.0/24", "2001:db8::1", "8.0.0.0/8"]).check(url, "x")


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, here="127.0.0.1", there="192.0.2.7", **{"api.openai.com": "192.0.2.9"})
    Local([]).check("http://here/v1", "x")
    Local(["THERE."]).check("http://there:8000/v1", "x")
    for url in ("http://there/v1", "http://nowhere/v1", None):  # None: where the client goes without an address
        with pytest.raises(UserError, match="local_only"):
            Local(["over-there"]).check(url, "x")


def section(url: str | None, **more: Any) -> DataSection:
    provider = ProviderSection(kind="openai", base_url=url, model="m", api_key_env="TEST_KEY", retries=0)
    return DataSection(providers={"default": provider}, local_only=True, **more)


def ask(asker: Asker) -> dict[str, Any] | AnswerError:
    prompt = Prompt("judge", {"topic": "t", "question": "q", "answer": "a"})
    return asker.ask_many([Request("judge_1", prompt, (), Judgement)])[0]


def test_a_local_endpoint_is_asked_and_no_proxy_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda body, number: GOOD) as proxy, endpoint(lambda body, number: GOOD) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        assert ask(Asker(section(server.url))) == {"score": 1, "reason": "fine"}
        assert len(server.bodies) == 1
        assert proxy.bodies == []


def test_without_the_switch_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda body, number: GOOD) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        chosen = section("http://model.invalid/v1").model_copy(update={"local_only": False})
        assert ask(Asker(chosen)) == {"score": 1, "reason": "fine"}
        assert len(proxy.bodies) == 1


def test_an_endpoint_elsewhere_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(UserError, match=r"data\.providers\.default\.base_url: data\.local_only"):
        Asker(section("http://192.0.2.7:1/v1"))
    with pytest.raises(UserError, match="local_only"):
        Asker(section("http://model.invalid/v1"))


def test_a_name_that_leads_elsewhere_later_gets_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowed when it was looked up, another address when the connection is made."""
    with endpoint(lambda body, number: GOOD) as server:
        port = server.url.rsplit(":", 1)[1].removesuffix("/v1")
        names(monkeypatch, shifty=["127.0.0.1", "127.0.0.1"])
        asker = Asker(section(f"http://shifty:{port}/v1"))
        monkeypatch.setattr(Local, "allows", lambda self, address: False)
        with pytest.raises(ProviderError, match="leads off this machine"):
            ask(asker)
        assert server.bodies == []
