"""Servers by address: the same requests and completions, for rollouts (`rl.rollout.url`).

    engine = Servers(model, processor, ["http://a:8000", "http://b:8000"], folder)
    engine.generate(requests)
    engine.update_weights()

They are vLLM's or ours (`open4ov rollout`), in any number. Tokens go in and come out (`/inference/v1/generate`),
pictures as PNG, so nothing is tokenised twice. New weights go by the one way that a vLLM server has on every device:
they are written once to a folder that all sides see, and all servers are told to read it (`/collective_rpc`
`reload_weights`), to forget what they have computed, and under which label the weights go from now on. vLLM's transfers
without files (NCCL, CUDA IPC) need GPUs on both sides and are not used here.

`open4ov vllm-plan DIR --rollout` prints the command that starts such a server of vLLM's.

A server is asked only after it has said that it has the label, and its log-probabilities were found to be the model's;
that is looked at before each batch, and the label again in each answer. One that went away and came back has the
weights it was started with: it gets the present ones first. Nothing sampled by others is used. Where a server is gone
in the middle of a batch, the others go on with its requests (`sharing.py`); when none is left, all are tried again with
pauses.

Seen with vLLM 0.32 (tests/rl/generation/test_rollout_servers.py).
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from open4ov.engine import vllm_sync
from open4ov.engine.generate import Progress
from open4ov.engine.request import Request
from open4ov.engine.rollouts.address import Address
from open4ov.engine.rollouts.sharing import Lost, share
from open4ov.engine.vllm_sync import WeightsDiffer
from open4ov.engine.vllm_wire import Gone, Pictures, Wired, seed
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL

T = TypeVar("T")
log = logging.getLogger(__name__)
LONGEST_PAUSE = 30.0
"""Seconds between two tries at most"""
_CUTS = {
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""What a request may not set: a vLLM server gives log p after it, and not that of the policy"""


class Servers(Wired):
    """`model` and `processor` answered for by the servers at `urls` (`http://host:port`).

    `folder`: where the weights are written; `served_folder`: the same folder as the servers name it (None: alike).
    `only_own`: they have to be ours; else they may be vLLM's, or of both kinds. `key`: their API key. `timeout`:
    seconds for one answer. `tries`: rounds without any answer before the last server counts as gone, with pauses of
    `pause` seconds, twice as long each time. `concurrency`: requests under way at each server. `max_length`, `images`,
    `dtype`, `tolerance`: see `Wired`.

    Raises UserError for a server that cannot do this, and says how it is started; `Gone` when none answers;
    WeightsDiffer when the log-probabilities of one are not the model's.
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        urls: str | Sequence[str],
        folder: Path | str,
        *,
        served_folder: str | None = None,
        only_own: bool = False,
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
        named = [urls] if isinstance(urls, str) else urls
        self.addresses = [Address(url, key, timeout, concurrency, only_own) for url in named]
        self.only_own, self._told_tolerance = only_own, tolerance
        self.tries, self.pause, self.concurrency = tries, pause, concurrency
        self._folder, self._served = Path(folder), (served_folder or str(folder)).rstrip("/")
        self._name, self._label, self._loads = uuid.uuid4().hex[:12], "", 0
        vllm_sync.save_untied(model, processor, self._checkpoint, self.dtype)
        self._reload()
        self._verify()

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held between calls; the servers stay, with the weights they have."""

    def _reload(self) -> None:
        self._loads += 1
        self._label = f"open4ov-{self._name}-{self._loads}"
        self._run(self._again(self._ready))

    def _verify(self) -> None:
        self._trusted = True  # each server is looked at when it takes the weights

    def _wire(self, request: Request, pictures: Pictures) -> tuple[list[int], dict[str, Any]]:
        for name, none in _CUTS.items():
            if not self.only_own and getattr(request, name) != none:
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
        found: dict[int, list[dict[str, Any]]] = {}
        total = sum(request.n for request in requests)

        async def ask(address: Address, place: int) -> list[dict[str, Any]]:
            body = _body(requests[place], wires[place], urls, address.own)
            return self._read(address, await address.generate(body), requests[place])

        def take(place: int, answer: list[dict[str, Any]]) -> None:
            found[place] = answer
            if progress is not None:
                progress(sum(map(len, found.values())), total)

        async def round_() -> None:
            await self._ready()
            there = [address for address in self.addresses if not address.away]
            left = [place for place in range(len(requests)) if place not in found]
            try:
                await share(there, left, ask, self.concurrency, take, self._drop)
            except Lost:
                raise self._nobody() from None

        self._run(self._again(round_, lambda: len(found)))
        return [found[place] for place in range(len(requests))]

    async def _ready(self) -> None:
        """All servers at the same time: those that answer have the present weights afterwards, the others are away.
        Raises Lost when no one answers."""
        tries = await asyncio.gather(*map(self._take_over, self.addresses), return_exceptions=True)
        for fault in tries:  # what cannot be mended comes before what another try may bring
            if isinstance(fault, BaseException) and not isinstance(fault, Lost):
                raise fault
        for address, fault in zip(self.addresses, tries, strict=True):
            if isinstance(fault, Lost):
                self._drop(address, fault)
            elif address.away:
                if len(self.addresses) > 1:
                    log.warning("rollouts: %s is back, with the present weights", address.url)
                address.away = ""
        if all(address.away for address in self.addresses):
            raise self._nobody()

    async def _take_over(self, address: Address) -> None:
        """Gives a server the present weights unless it has them, and looks at its log-probabilities."""
        if await address.version() == self._label == address.has:
            return
        address.has = ""
        await address.load(f"{self._served}/{self._checkpoint.name}", self._label)
        pictures: Pictures = {}
        asked = [replace(one, top_k=0, top_p=1.0) for one in vllm_sync.probes(self.processor)]
        prompts, wires = zip(*(self._wire(one, pictures) for one in asked), strict=True)
        urls = {key: _png(raw) for key, raw in pictures.items()}
        answers: list[Any] = []
        for request, prompt, wire in zip(asked, prompts, wires, strict=True):
            body = _body(request, wire, urls, address.own)
            (raw,) = self._read(address, await address.generate(body), request)
            try:
                answers.append(self._completion(request, prompt, raw))
            except RuntimeError as error:
                raise RuntimeError(f"{address.url}: {error}") from None
        tolerance = self._tolerance(address)
        try:
            vllm_sync.check(self.model, self.processor, asked, answers, tolerance)
        except WeightsDiffer as error:
            hint = f"{address.start}, and one that computes in another type than the model's, or quantised, needs a"
            raise WeightsDiffer(f"{address.url}: {error}; {hint} tolerance above {tolerance:g}") from error
        address.has = self._label

    def _tolerance(self, address: Address) -> float:
        """What its log-probabilities may differ by: where nobody says it, by the coarser of the two types."""
        if self._told_tolerance is None and address.precision == "bf16":
            return max(self.tolerance, vllm_sync.TOLERANCE[torch.bfloat16])
        return self.tolerance

    def _drop(self, address: Address, fault: Lost) -> None:
        if not address.away and len(self.addresses) > 1:
            log.warning("rollouts: %s is left out until the next step: %s", address.url, fault)
        address.away = str(fault)

    def _nobody(self) -> Lost:
        return Lost("; ".join(f"{address.url}: {address.away}" for address in self.addresses))

    def _read(self, address: Address, answer: Any, request: Request) -> list[dict[str, Any]]:
        """The completions of an answer, as `Wired` reads them. Raises RuntimeError for one of another shape."""
        url = address.url
        try:
            choices = sorted(answer["choices"], key=lambda one: one["index"])
            spans = [span for one in choices for span in one.get("weight_versions") or ()]
            versions = {span["version"] for span in spans}
            if versions - {self._label}:
                raise Lost(f"it answered with weights that are not the last ({', '.join(sorted(versions))})")
            if address.own and not versions:
                raise RuntimeError(f"{url}: an answer without the version of its weights")
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
            raise RuntimeError(f"{url}: an answer of another shape than vLLM 0.32's ({error!r})") from None
        if len(read) != request.n or any(len(one["tokens"]) != len(one["log_probs"]) for one in read):
            raise RuntimeError(f"{url}: {len(read)} responses, or log-probs that are not theirs, for {request.n}")
        if any(not math.isfinite(value) for one in read for value in one["log_probs"]):
            raise RuntimeError(f"{url}: log-probs that are no numbers; are the server's weights whole?")
        return read

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Does the work with connections to all servers."""

        async def connected() -> T:
            async with AsyncExitStack() as stack:
                for address in self.addresses:
                    await stack.enter_async_context(address.connected())
                return await work

        return asyncio.run(connected())

    async def _again(self, what: Callable[[], Awaitable[None]], done: Callable[[], int] = lambda: 0) -> None:
        """Calls `what` until it works; after `tries` rounds in which `done()` has not grown all servers are gone."""
        left, reached, pause = self.tries, done(), self.pause
        while True:
            try:
                await what()
                return
            except Lost as error:
                left -= 1
                if done() > reached:
                    left, reached, pause = self.tries, done(), self.pause
                if left <= 0:
                    raise Gone(f"{error} ({self.tries} tries)") from None
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)


def _body(request: Request, wire: dict[str, Any], urls: dict[str, str], own: bool) -> dict[str, Any]:
    """What a server is asked. Ours samples as `Engine` does; vLLM's noise is another."""
    sampling = {
        **wire["sampling"],
        "n": request.n,
        "ignore_eos": True,  # its own list of closing tokens is the model folder's, and longer
        "detokenize": bool(request.stop),
    }
    if own:
        sampling.pop("repetition_detection", None)
        sampling |= {"seed": request.seed, "first": request.first}
        sampling["degeneration"] = asdict(request.degeneration) if request.degeneration else None
    else:
        sampling["seed"] = (seed(request, 0) + request.first) % 2**53  # completion i has the i-th after it
    body = {"token_ids": wire["prompt"], "sampling_params": sampling, "return_token_ids": True}
    if wire["images"]:
        body["content_parts"] = [{"type": "image_url", "url": urls[key]} for key in wire["images"]]
    if wire["salt"]:
        body["cache_salt"] = wire["salt"]
    return body


def _png(raw: dict[str, Any]) -> str:
    data = io.BytesIO()
    Image.frombytes("RGB", tuple(raw["size"]), base64.b64decode(raw["rgb"])).save(data, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
