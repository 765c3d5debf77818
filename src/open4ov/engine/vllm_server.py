"""vLLM as a server by address: the same requests and completions, for rollouts (`rl.rollout.url`).

    engine = VLLMServer(model, processor, "http://127.0.0.1:8000", folder)
    engine.generate(requests)
    engine.update_weights()

Tokens go in and come out (`/inference/v1/generate`), pictures as PNG, so nothing is tokenised twice. New weights go by
the one way that a vLLM server has on every device: they are written to a folder that both sides see, and the server is
told to read it (`/collective_rpc` `reload_weights`), to forget what it has computed, and under which label the weights
go from now on. Its transfers without files (NCCL, CUDA IPC) need GPUs on both sides and are not used here.

`open4ov vllm-plan DIR --rollout` prints the command that starts such a server.

A server that went away and came back has the weights it was started with. So the label is asked for before each batch
and looked for in each answer, and weights that are not the last are sent again; nothing sampled by others is used.

Seen with vLLM 0.32 (tests/rl/test_vllm_server.py).
"""

from __future__ import annotations

import base64
import io
import math
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import torch
from PIL import Image

from open4ov.engine import vllm_sync
from open4ov.engine.generate import Progress
from open4ov.engine.request import Request
from open4ov.engine.vllm_sync import WeightsDiffer
from open4ov.engine.vllm_wire import Gone, Pictures, Wired, seed
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL

LONGEST_PAUSE = 30.0
"""Seconds between two tries at most"""
_TOLD = 300
"""Characters of what a server says about a fault"""
_CUTS = {
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""What a request may not set: a server gives log p after it, and not that of the policy"""


class _Lost(Exception):
    """No usable answer this time; another try may help."""


class VLLMServer(Wired):
    """`model` and `processor` answered for by the vLLM server at `url` (`http://host:port`).

    `folder`: where the weights are written; `served_folder`: the same folder as the server names it (None: alike).
    `key`: its API key. `timeout`: seconds for one answer. `tries`: rounds without any answer before the server counts
    as gone, with pauses of `pause` seconds, twice as long each time. `concurrency`: requests under way.
    `max_length`, `images`, `dtype`, `tolerance`: see `Wired`.

    Raises UserError for a server that cannot do this, and says how it is started; `Gone` for one that does not answer;
    WeightsDiffer when its log-probabilities are not the model's.
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        url: str,
        folder: Path | str,
        *,
        served_folder: str | None = None,
        key: str | None = None,
        timeout: float = 600.0,
        tries: int = 5,
        pause: float = 0.5,
        concurrency: int = 64,
        max_length: int | None = None,
        images: int = 16,
        dtype: torch.dtype | None = None,
        tolerance: float | None = None,
    ) -> None:
        super().__init__(model, processor, max_length=max_length, images=images, dtype=dtype, tolerance=tolerance)
        self.url = url.rstrip("/").removesuffix("/v1")
        self.tries, self.pause, self.concurrency = tries, pause, concurrency
        self._folder, self._served = Path(folder), served_folder or str(folder)
        self._client = httpx2.Client(
            trust_env=False,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )
        self._name, self._label, self._loads = uuid.uuid4().hex[:12], "", 0
        try:
            vllm_sync.save_untied(model, processor, self._checkpoint, self.dtype)
            self._reload()
            self._verify()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VLLMServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections; the server stays, with the weights it has."""
        self._client.close()

    def _reload(self) -> None:
        self._loads += 1
        self._label = f"open4ov-{self._name}-{self._loads}"
        self._again(self._load)

    def _load(self) -> None:
        path = f"{self._served.rstrip('/')}/{self._checkpoint.name}"
        self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
        found = self._post("/reset_prefix_cache", {})
        if isinstance(found, dict) and found.get("success") is False:
            raise _Lost("the server could not reset its prefix cache; does somebody else use it?")
        self._post("/reset_mm_cache", {})
        self._post("/reset_encoder_cache", {})
        self._post("/update_weight_version", {"new_version": self._label})

    def _verify(self) -> None:
        try:
            super()._verify()
        except WeightsDiffer as error:
            hint = f"{_START}, and one that computes in another type than the model's, or quantised, needs a tolerance"
            raise WeightsDiffer(f"{self.url}: {error}; {hint} above {self.tolerance:g}") from error

    def _probes(self) -> list[Request]:
        return [replace(one, top_k=0, top_p=1.0) for one in vllm_sync.probes(self.processor)]

    def _wire(self, request: Request, pictures: Pictures) -> tuple[list[int], dict[str, Any]]:
        for name, none in _CUTS.items():
            if getattr(request, name) != none:
                raise UserError(f"{name}: a vLLM server gives log p after it; use open4ov's own engine")
        return super()._wire(request, pictures)

    def _answers(
        self,
        requests: Sequence[Request],
        wires: Sequence[dict[str, Any]],
        pictures: Pictures,
        progress: Progress | None,
    ) -> list[list[dict[str, Any]]]:
        urls = {key: _png(raw) for key, raw in pictures.items()}
        bodies = [self._body(request, wire, urls) for request, wire in zip(requests, wires, strict=True)]
        found: dict[int, list[dict[str, Any]]] = {}
        total = sum(request.n for request in requests)

        def ask(place: int) -> None:
            answer = self._post("/inference/v1/generate", bodies[place])
            found[place] = self._read(answer, requests[place])
            if progress is not None:
                progress(sum(map(len, list(found.values()))), total)

        def round_() -> None:
            self._same_weights()
            with ThreadPoolExecutor(min(self.concurrency, len(bodies))) as pool:
                tries = [pool.submit(ask, place) for place in range(len(bodies)) if place not in found]
                faults = [fault for one in tries if (fault := one.exception()) is not None]
            for fault in faults:  # what cannot be mended comes before what another try may bring
                if not isinstance(fault, _Lost):
                    raise fault
            if faults:
                raise faults[0]

        self._again(round_, lambda: len(found))
        return [found[place] for place in range(len(bodies))]

    def _body(self, request: Request, wire: dict[str, Any], urls: dict[str, str]) -> dict[str, Any]:
        sampling = {
            **wire["sampling"],
            "n": request.n,
            "seed": (seed(request, 0) + request.first) % 2**53,  # completion i of a request has the i-th after it
            "ignore_eos": True,  # its own list of closing tokens is the model folder's, and longer
            "detokenize": bool(request.stop),
        }
        body = {"token_ids": wire["prompt"], "sampling_params": sampling, "return_token_ids": True}
        if wire["images"]:
            body["content_parts"] = [{"type": "image_url", "url": urls[key]} for key in wire["images"]]
        if wire["salt"]:
            body["cache_salt"] = wire["salt"]
        return body

    def _read(self, answer: Any, request: Request) -> list[dict[str, Any]]:
        """The completions of an answer, as `Wired` reads them. Raises RuntimeError for one of another shape."""
        try:
            choices = sorted(answer["choices"], key=lambda one: one["index"])
            versions = {span["version"] for one in choices for span in one.get("weight_versions") or ()}
            if versions - {self._label}:
                raise _Lost(f"it answered with weights that are not the last ({', '.join(sorted(versions))})")
            prompt = answer["prompt_token_ids"]
            scores = answer.get("prompt_logprobs")
            scored = scores and [at[str(t)]["logprob"] for t, at in zip(prompt[1:], scores[1:], strict=True)]
            read = [
                {
                    "prompt": prompt,
                    "tokens": one["token_ids"],
                    "log_probs": [at["logprob"] for at in one["logprobs"]["content"]],
                    "top": [[(t["token_id"], t["logprob"]) for t in at["top_logprobs"]]
                            for at in one["logprobs"]["content"]],
                    "prompt_log_probs": scored,
                    "finish_reason": one["finish_reason"],
                }
                for one in choices
            ]  # fmt: skip
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise RuntimeError(f"{self.url}: an answer of another shape than vLLM 0.32's ({error!r})") from None
        if len(read) != request.n or any(len(one["tokens"]) != len(one["log_probs"]) for one in read):
            raise RuntimeError(f"{self.url}: {len(read)} responses, or log-probs that are not theirs, for {request.n}")
        if any(not math.isfinite(value) for one in read for value in one["log_probs"]):
            raise RuntimeError(f"{self.url}: log-probs that are no numbers; are the server's weights whole?")
        return read

    def _same_weights(self) -> None:
        found = self._get("/weight_info")
        if not isinstance(found, dict) or found.get("weight_version") != self._label:
            self._load()

    def _again(self, what: Any, done: Any = lambda: 0) -> None:
        """Calls `what` until it works; after `tries` rounds in which `done()` has not grown the server is gone."""
        left, reached, pause = self.tries, done(), self.pause
        while True:
            try:
                what()
                return
            except _Lost as error:
                left -= 1
                if done() > reached:
                    left, reached, pause = self.tries, done(), self.pause
                if left <= 0:
                    raise Gone(f"{self.url}: {error} ({self.tries} tries)") from None
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._send("POST", path, body)

    def _get(self, path: str) -> Any:
        return self._send("GET", path, None)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._client.request(method, self.url + path, json=body)
        except httpx2.ConnectError:
            raise _Lost("no connection") from None
        except httpx2.TimeoutException:
            raise _Lost(f"no answer in time ({path})") from None
        except (httpx2.HTTPError, OSError) as error:
            raise _Lost(f"the connection broke ({path}: {type(error).__name__})") from None
        status = response.status_code
        if status >= 500 or status in (408, 429):
            raise _Lost(f"HTTP {status} ({path}): {_said(response)}")
        if status in (403, 404, 405):
            raise UserError(f"{self.url}: {path} is not served (HTTP {status}); {_START}")
        if status >= 300:
            raise UserError(f"{self.url}: HTTP {status} ({path}): {_said(response)}")
        try:
            return response.json() if response.content else None
        except ValueError:
            raise _Lost(f"an answer that is no JSON ({path})") from None


_START = (
    "it has to be vLLM 0.32 or later, started for rollouts (`open4ov vllm-plan DIR --rollout`): with "
    "--enable-scale-out, --logprobs-mode processed_logprobs and VLLM_SERVER_DEV_MODE=1"
)


def _said(response: httpx2.Response) -> str:
    return " ".join(response.text.split())[:_TOLD] or "no reason given"


def _png(raw: dict[str, Any]) -> str:
    data = io.BytesIO()
    Image.frombytes("RGB", tuple(raw["size"]), base64.b64decode(raw["rgb"])).save(data, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
