"""vLLM as the engine: the same requests and completions, computed by vLLM in a process of its own environment.

    with VLLM(model, processor) as engine:
        engine.generate(requests)
        engine.update_weights(state)

The prompt goes over as tokens and the pictures as pixels, so both engines read the same. Same seeds give the same
responses again, but not those of `Engine`, whose noise is another.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from open4ov.engine import vllm_sync, weights
from open4ov.engine.generate import Progress
from open4ov.engine.request import Completion, Request
from open4ov.engine.text import cut_at_stop
from open4ov.engine.vllm_plan import QUIET
from open4ov.engine.watch import Watch
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.model.images import fitted

WORKER = Path(__file__).with_name("vllm_worker.py")
PYTHON = "OPEN4OV_VLLM_PYTHON"
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
    }
)
"""Fields of a request that vLLM is told of"""
REFUSED = frozenset({"grammar", "degeneration", "ahead", "adapter"})
"""Those that it does not have: a request that sets one is refused"""
_DEFAULTS = {field.name: field.default for field in fields(Request) if field.name in REFUSED}
_ENVIRONMENT = {
    **QUIET,
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the scheduler in the worker's own process
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the sampler of the first is the one that the worker corrects
    "VLLM_LOGGING_LEVEL": "WARNING",
    "PYTHONSAFEPATH": "1",  # the script's folder holds modules of the same names as vLLM's
}


def find_python() -> Path:
    """The interpreter of vLLM's environment: OPEN4OV_VLLM_PYTHON, or that of `.venv-vllm` here. Raises UserError."""
    named = os.environ.get(PYTHON)
    python = Path(named or ".venv-vllm/bin/python")
    if not python.is_file():
        raise UserError(
            f"{python}: no interpreter with vLLM; name one in {PYTHON}, or make an environment: "
            "scripts/vllm_venv.sh .venv-vllm"
        )
    return python


class VLLM:
    """`model` and `processor` answered for by vLLM.

    `python`: vLLM's interpreter (None: `find_python`). `max_batch`: completions under way together; `max_length`:
    tokens that a prompt and its response may have together (None: the model's positions); `step_tokens`: most tokens
    of a step; `images`: most pictures of a request; `dtype`: what vLLM computes in (None: as the model). `memory_gb`:
    of the KV cache, on a CPU; on GPUs vLLM takes `gpu_share` of their memory. `tolerance`: see `vllm_sync.check`
    (None: by dtype). `model` stays the caller's: weights that change in place are taken over before the next requests,
    as `Engine` does.

    Raises UserError for what cannot work here, RuntimeError when vLLM fails, and WeightsDiffer.
    """

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        python: Path | str | None = None,
        *,
        max_batch: int = 128,
        max_length: int | None = None,
        step_tokens: int = 2048,
        images: int = 16,
        dtype: torch.dtype | None = None,
        tensor_parallel: int = 1,
        memory_gb: int = 1,
        gpu_share: float = 0.9,
        tolerance: float | None = None,
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
        self._folder = Path(tempfile.mkdtemp(prefix="open4ov-vllm-"))
        self._log = (self._folder / "worker.log").open("w+b")
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}  # vLLM's default is many times slower
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        self._process = subprocess.Popen(
            [str(python or find_python()), "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**inherited, **threads, **_ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": str(memory_gb)},
        )
        try:
            vllm_sync.save_untied(model, processor, self._checkpoint, self.dtype)
            arguments = {
                "model": str(self._checkpoint),
                "dtype": str(self.dtype).removeprefix("torch."),
                "max_model_len": self.longest,
                "max_num_seqs": max_batch,
                "max_num_batched_tokens": max(step_tokens, max_batch),
                "limit_mm_per_prompt": {"image": images, "video": 0},
                "tensor_parallel_size": tensor_parallel,
                "gpu_memory_utilization": gpu_share,
                "logprobs_mode": "raw_logprobs",
                "max_logprobs": -1,
                "generation_config": "vllm",
                "enforce_eager": model.device.type == "cpu",
                "seed": 0,
            }
            self._call({"op": "start", "arguments": arguments})
            self._verify()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process and removes what was written for it."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

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
        self._call({"op": "reload", "path": str(self._checkpoint)})
        self._verify()
        self.weight_version += 1
        return self.weight_version

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[list[Completion]]:
        """The completions of each request, in order. `progress(done, total)` counts completions. Raises UserError for
        a request that vLLM cannot answer as `Engine` would."""
        if self._watch.changed():
            self.update_weights()
        if not self._trusted:
            raise vllm_sync.WeightsDiffer("the last update of vLLM's weights failed: update them again")
        return self._generate(requests, progress)

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "checkpoint"

    def _verify(self) -> None:
        asked = vllm_sync.probes(self.processor)
        answers = [one for (one,) in self._generate(asked, None)]
        vllm_sync.check(self.model, self.processor, asked, answers, self.tolerance)
        self._trusted = True

    def _generate(self, requests: Sequence[Request], progress: Progress | None) -> list[list[Completion]]:
        pictures: dict[str, dict[str, Any]] = {}
        sent: list[dict[str, Any]] = []
        prompts: list[list[int]] = []
        for place, request in enumerate(requests):
            try:
                prompt, one = self._wire(request, pictures)
            except UserError as error:
                raise UserError(f"request {place}: {error}") from None
            prompts += [prompt] * request.n
            numbers = range(request.first, request.first + request.n)
            sent += [{**one, "sampling": {**one["sampling"], "seed": _seed(request, i)}} for i in numbers]
        if not sent:
            return []
        answers = iter(
            self._call(
                {"op": "generate", "images": pictures, "requests": sent}, lambda done: _tell(progress, done, sent)
            )
        )
        expected = iter(prompts)
        return [
            [self._completion(request, next(expected), next(answers)) for _ in range(request.n)] for request in requests
        ]

    def _wire(self, request: Request, pictures: dict[str, dict[str, Any]]) -> tuple[list[int], dict[str, Any]]:
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
        return whole, {"prompt": short, "images": keys, "salt": request.salt, "sampling": sampling}

    def _picture(self, image: Image.Image, pictures: dict[str, dict[str, Any]]) -> str:
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
                f"vLLM read a prompt of {len(raw['prompt'])} tokens where open4ov has {len(prompt)} or others: "
                "its processor is not this model's"
            )
        if raw["finish_reason"] not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a response by {raw['finish_reason']!r}")
        count = request.top_log_probs
        top = [[(token, value) for token, value in at[:count]] for at in raw["top"]] if count else []
        return Completion(
            cut_at_stop(self.processor.decode(raw["tokens"]), request.stop),
            raw["tokens"],
            raw["log_probs"],
            raw["finish_reason"],
            self.weight_version,
            top,
            raw["prompt_log_probs"] or [],
        )

    def _call(self, message: dict[str, Any], done: Any = None) -> Any:
        """The worker's answer; `done(n)` hears how far it has come."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise RuntimeError(f"vLLM's process has ended{self._last_words()}") from None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "done" in answer:
                if done is not None:
                    done(answer["done"])
                continue
            if "error" in answer:
                raise RuntimeError(f"vLLM failed: {answer['error']}{self._last_words()}")
            return answer["result"]
        raise RuntimeError(f"vLLM's process has ended{self._last_words()}")

    def _last_words(self) -> str:
        if self._log.closed:
            return ""
        self._log.seek(0)
        return "; the end of its log:\n" + self._log.read()[-2000:].decode(errors="replace")


def _seed(request: Request, index: int) -> int:
    """Of completion `index`: far from those of other requests and indices."""
    digest = hashlib.sha256(f"open4ov.vllm/{request.seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _tell(progress: Progress | None, done: int, sent: Sequence[object]) -> None:
    if progress is not None:
        progress(done, len(sent))
