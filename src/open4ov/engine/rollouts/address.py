"""One server of rollouts at an address: vLLM's, or ours (`app.py`), asked over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2

from open4ov.engine.rollouts.sharing import Lost
from open4ov.errors import UserError

OWN = "open4ov"
"""What our own server calls its engine"""
CONNECT_SECONDS = 10.0
LOOK_SECONDS = 30.0
"""For saying which weights it has"""
_TOLD = 300
"""Characters of what a server says about a fault"""
VLLM_START = (
    "it has to be vLLM 0.32 or later, started for rollouts (`open4ov vllm-plan DIR --rollout`): with "
    "--enable-scale-out, --logprobs-mode processed_logprobs and VLLM_SERVER_DEV_MODE=1"
)
OWN_START = "it has to be a server of `open4ov rollout DIR --folder FOLDER`"


class Address:
    """The server at `url` (`http://host:port`). `only_own`: it has to be one of ours. `own` says whether it is, once it
    has been asked. `has`: the label of the weights that it has taken, whose log-probabilities were compared; `away`:
    why it is not asked now ("": it is)."""

    def __init__(self, url: str, key: str | None, timeout: float, connections: int, only_own: bool = False) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.only_own, self.own = only_own, only_own
        self.precision = ""
        """What it computes in by its own words: fp32, bf16, or nothing"""
        self.has = self.away = ""
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        self._look = httpx2.Timeout(min(timeout, LOOK_SECONDS), connect=min(timeout, CONNECT_SECONDS))
        self._limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client: httpx2.AsyncClient | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[None]:
        """While it is entered the server can be asked."""
        async with httpx2.AsyncClient(
            trust_env=False, timeout=self._timeout, headers=self._headers, limits=self._limits
        ) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    @property
    def start(self) -> str:
        """How such a server is started."""
        return OWN_START if self.own else VLLM_START

    async def version(self) -> str:
        """The label of the weights that it has now. Raises UserError for one that is not ours but has to be."""
        found = await self._send("GET", "/weight_info", None)
        if not isinstance(found, dict):
            raise Lost("it does not say which weights it has")
        found = cast(dict[str, Any], found)
        self.own = found.get("engine") == OWN
        if self.only_own and not self.own:
            raise UserError(f"{self.url}: this is no server of open4ov's engine; {OWN_START}")
        self.precision = str(found.get("precision", "")) if self.own else ""
        return str(found.get("weight_version"))

    async def load(self, path: str, label: str) -> None:
        """Makes it read the weights in the folder `path`, as it names it, forget what it has computed, and call them
        `label` from now on. Raises Lost where it does not say so itself."""
        await self.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
        found = await self.post("/reset_prefix_cache", {})
        if isinstance(found, dict) and cast(dict[str, Any], found).get("success") is False:
            raise Lost("the server could not reset its prefix cache; does somebody else use it?")
        await self.post("/reset_mm_cache", {})
        await self.post("/reset_encoder_cache", {})
        await self.post("/update_weight_version", {"new_version": label})
        if (now := await self.version()) != label:
            raise Lost(f"it has weights of the version {now}, not {label}; does somebody else use it?")

    async def generate(self, body: dict[str, Any]) -> Any:
        return await self.post("/inference/v1/generate", body)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """What it answers. Raises Lost where another try may help, and UserError where it cannot."""
        return await self._send("POST", path, body)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        assert self._client is not None, "not connected"
        timeout = self._look if body is None else self._timeout
        try:
            response = await self._client.request(method, self.url + path, json=body, timeout=timeout)
        except httpx2.ConnectError:
            raise Lost("no connection") from None
        except httpx2.TimeoutException:
            raise Lost(f"no answer in time ({path})") from None
        except (httpx2.HTTPError, OSError) as error:
            raise Lost(f"the connection broke ({path}: {type(error).__name__})") from None
        status = response.status_code
        if status >= 500 or status in (408, 429):
            raise Lost(f"HTTP {status} ({path}): {_said(response)}")
        if status == 401:
            raise UserError(
                f"{self.url}: the key is not let in (HTTP 401); rl.rollout.key_env names the variable with it"
            )
        if status in (403, 404, 405):
            raise UserError(f"{self.url}: {path} is not served (HTTP {status}); {self.start}")
        if status >= 300:
            raise UserError(f"{self.url}: HTTP {status} ({path}): {_said(response)}")
        try:
            return response.json() if response.content else None
        except ValueError:
            raise Lost(f"an answer that is no JSON ({path})") from None


def _said(response: httpx2.Response) -> str:
    return " ".join(response.text.split())[:_TOLD] or "no reason given"
