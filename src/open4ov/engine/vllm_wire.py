"""What vLLM is asked for a request and how its answer is read, however the two are connected (`vllm.py`: a process of
ours; `rollouts/servers.py`: servers by address, which may be of our own engine).

The prompt goes over as tokens and the pictures as pixels, so vLLM and `Engine` read the same.
"""

from __future__ import annotations

import base64
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from open4ov.engine import vllm_sync, weights
from open4ov.engine.degeneration import EVERY
from open4ov.engine.generate import Progress
from open4ov.engine.request import Completion, Request
from open4ov.engine.text import cut_at_stop
from open4ov.engine.watch import Watch
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.model.images import fitted

SAFE_TEMPERATURE = 0.01
"""Below it vLLM takes another temperature than it is told"""
MAPPED = frozenset(
    {
        "messages",
        "images",
        "max_tokens",
        "temperature",
        "top_k",
        "top_p",
        "n",
        "first",
        "seed",
        "stop",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "top_log_probs",
        "prompt_log_probs",
        "ignore_eos",
        "salt",
        "degeneration",
    }
)
"""Fields of a request that vLLM is told of. Of `degeneration` it only knows long repetitions, which it stops late; its
responses are cut here to where `Engine` would have stopped them."""
REFUSED = frozenset({"grammar", "ahead", "adapter"})
"""Those that it does not have: a request that sets one is refused"""
_DEFAULTS = {field.name: field.default for field in fields(Request) if field.name in REFUSED}

Pictures = dict[str, dict[str, Any]]
"""SHA-256 -> size and pixels ("rgb", base64)"""


class Gone(RuntimeError):
    """vLLM does not answer any more."""


class Wired(ABC):
    """`model` and `processor` answered for by vLLM; subclasses bring `_answers` (ask), `_reload` (new weights) and
    `_folder` (where these are written).

    `max_length`: tokens that a prompt and its response may have together (None: the model's positions); `images`: most
    pictures of a request; `dtype`: what vLLM computes in (None: as the model); `tolerance`: see `vllm_sync.check`
    (None: by dtype). `model` stays the caller's: weights that change in place are taken over before the next requests,
    as `Engine` does.
    """

    _folder: Path

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        *,
        max_length: int | None,
        images: int,
        dtype: torch.dtype | None,
        tolerance: float | None,
    ) -> None:
        processor.check(model.config)
        self.model, self.processor = model, processor
        self.dtype = dtype or model.text.embed.weight.dtype
        if tolerance is None and self.dtype not in vllm_sync.TOLERANCE:
            raise UserError(f"vLLM computes in float32, bfloat16 or float16, not in {self.dtype}: give dtype")
        self.tolerance = vllm_sync.TOLERANCE[self.dtype] if tolerance is None else tolerance
        most = model.config.text.max_position_embeddings
        self.longest = min(max_length or most, most)
        self.images = images
        self.weight_version = 0
        self._watch = Watch(lambda: self.model.parameters())
        self._trusted = False

    @property
    def _checkpoint(self) -> Path:
        """Where new weights are handed over."""
        return self._folder / "checkpoint"

    @abstractmethod
    def _answers(
        self,
        requests: Sequence[Request],
        wires: Sequence[dict[str, Any]],
        pictures: Pictures,
        progress: Progress | None,
    ) -> list[list[dict[str, Any]]]:
        """vLLM's answers to each request: for each of its completions the prompt's tokens as vLLM has read them
        (`prompt`), `tokens`, `log_probs`, `top`, `prompt_log_probs` and `finish_reason`."""

    @abstractmethod
    def _reload(self) -> None:
        """Makes vLLM read `_checkpoint`, and forget what it has computed."""

    def update_weights(self, state: Mapping[str, Tensor] | None = None) -> int:
        """Take over a state dict (None: the model was changed in place); returns the new weight version.

        vLLM reads the weights again and forgets what it has computed; then its log-probabilities are compared with the
        model's own. Raises WeightsDiffer when they are others: nothing is generated until an update succeeds. Raises
        UserError for weights that do not fit: nothing has changed then.
        """
        if state is not None:
            weights.load(self.model, state)
        self._watch.changed()
        self._trusted = False
        vllm_sync.save_untied(self.model, self.processor, self._checkpoint, self.dtype)
        self._reload()
        self._verify()
        self.weight_version += 1
        return self.weight_version

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        """The completions of each request, in order. `progress(done, total)` counts completions. Raises UserError for
        a request that vLLM cannot answer as `Engine` would."""
        if self._watch.changed():
            self.update_weights()
        if not self._trusted:
            raise vllm_sync.WeightsDiffer("the last update of the weights failed: update them again")
        return self._generate(requests, progress)

    def _verify(self) -> None:
        asked = self._probes()
        answers = [one for (one,) in self._generate(asked, None)]
        vllm_sync.check(self.model, self.processor, asked, answers, self.tolerance)
        self._trusted = True

    def _probes(self) -> list[Request]:
        return vllm_sync.probes(self.processor)

    def _generate(self, requests: Sequence[Request], progress: Progress | None) -> list[list[Completion]]:
        pictures: Pictures = {}
        prompts: list[list[int]] = []
        wires: list[dict[str, Any]] = []
        for place, request in enumerate(requests):
            try:
                prompt, one = self._wire(request, pictures)
            except UserError as error:
                raise UserError(f"request {place}: {error}") from None
            prompts.append(prompt)
            wires.append(one)
        if not wires:
            return []
        answers = self._answers(requests, wires, pictures, progress)
        return [
            [self._completion(request, prompt, raw) for raw in raws]
            for request, prompt, raws in zip(requests, prompts, answers, strict=True)
        ]

    def _wire(self, request: Request, pictures: Pictures) -> tuple[list[int], dict[str, Any]]:
        """The prompt's tokens as the model reads them, and the request as the worker reads it, all but the seed.

        Its pictures are added to `pictures`.
        """
        for name in sorted(REFUSED):
            if getattr(request, name) != _DEFAULTS[name]:
                raise UserError(f"{name}: not available with vLLM; use open4ov's own engine")
        if 0 < request.temperature < SAFE_TEMPERATURE:
            raise UserError(f"temperature {request.temperature}: vLLM has 0, or {SAFE_TEMPERATURE} and above")
        if request.prompt_log_probs and request.temperature not in (0.0, 1.0):
            raise UserError(
                f"prompt_log_probs at temperature {request.temperature}: vLLM gives them at 1 (or greedy) only"
            )
        if any(part.type == "video" for message in request.messages for part in message.content):
            raise UserError("video: not available with vLLM; use open4ov's own engine")
        document = self.processor.encode(request.messages, request.images, generate=True, pixels=False)
        whole: list[int] = document.input_ids.tolist()
        if len(whole) + request.max_tokens > self.longest:
            raise UserError(
                f"a request of {len(whole)} tokens and up to {request.max_tokens} of a response is beyond the "
                f"{self.longest} that there is room for: shorten it, lower max_tokens, or raise max_length"
            )
        shown = [part.shows[0] for message in request.messages for part in message.content if part.type == "image"]
        if len(shown) > self.images:
            raise UserError(f"{len(shown)} pictures; at most {self.images} (images=)")
        keys = [self._picture(request.images[index], pictures) for index in shown]
        image = self.processor.image_id  # vLLM puts in one for each token of a picture by itself
        short = [t for place, t in enumerate(whole) if t != image or whole[place - 1] != image]
        sampling = {
            "stop_token_ids": [] if request.ignore_eos else [self.processor.eos_id],
            "stop": list(request.stop),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
            "min_p": request.min_p,
            "repetition_penalty": request.repetition_penalty,
            "presence_penalty": request.presence_penalty,
            "frequency_penalty": request.frequency_penalty,
            "logprobs": request.top_log_probs,
            "prompt_logprobs": 0 if request.prompt_log_probs else None,
        }
        if watched := request.degeneration:
            # vLLM counts repetitions, however short they are, and after every token: so many are a loop of any length,
            # which `Engine`, too, would have looked at by then
            least = max(watched.times, watched.repeated) + EVERY
            loops = {"max_pattern_size": watched.period, "min_pattern_size": 1, "min_count": least}
            sampling["repetition_detection"] = loops
        return whole, {"prompt": short, "images": keys, "salt": request.salt, "sampling": sampling}

    def _picture(self, image: Image.Image, pictures: Pictures) -> str:
        """Resized here, so that vLLM's own resizing, which rounds otherwise, finds nothing to do."""
        ready = fitted(image, self.processor.images)
        content = ready.tobytes()
        key = hashlib.sha256(f"{ready.size} ".encode() + content).hexdigest()
        if key not in pictures:
            pictures[key] = {"size": ready.size, "rgb": base64.b64encode(content).decode()}
        return key

    def _completion(self, request: Request, prompt: list[int], raw: dict[str, Any]) -> Completion:
        if raw["prompt"] != prompt:
            raise RuntimeError(
                f"it read a prompt of {len(raw['prompt'])} tokens where open4ov has {len(prompt)} or others: "
                "its processor is not this model's"
            )
        tokens, log_probs, reason = raw["tokens"], raw["log_probs"], raw["finish_reason"]
        if reason not in ("stop", "length", "repetition", "garbled"):  # the last: our own server's
            raise RuntimeError(f"vLLM ended a response by {reason!r}")
        if request.degeneration is not None:
            vocabulary = self.model.config.text.vocab_size
            found = request.degeneration.first(tokens, log_probs, vocabulary, self.processor.decode)
            if found is not None:
                count, reason = found
                tokens, log_probs = tokens[:count], log_probs[:count]
        count = request.top_log_probs
        top = [[(token, value) for token, value in at[:count]] for at in raw["top"][: len(tokens)]] if count else []
        return Completion(
            cut_at_stop(self.processor.decode(tokens), request.stop),
            tokens,
            log_probs,
            reason,
            self.weight_version,
            top,
            raw["prompt_log_probs"] or [],
        )


def seed(request: Request, index: int) -> int:
    """Of completion `index`: far from those of other requests and indices."""
    digest = hashlib.sha256(f"open4ov.vllm/{request.seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
