"""vLLM as the engine: the same requests and completions, computed by vLLM in a process of its own environment.

    with VLLM(model, processor) as engine:
        engine.generate(requests)
        engine.update_weights(state)

The prompt goes over as tokens and the pictures as pixels, so both engines read the same. Same seeds give the same
responses again, but not those of `Engine`, whose noise is another.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from open4ov.engine import vllm_sync
from open4ov.engine.generate import Progress
from open4ov.engine.request import Request
from open4ov.engine.vllm_plan import QUIET
from open4ov.engine.vllm_wire import MAPPED, REFUSED, Gone, Pictures, Wired, seed
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL

WORKER = Path(__file__).with_name("vllm_worker.py")
PYTHON = "OPEN4OV_VLLM_PYTHON"
__all__ = ["MAPPED", "PYTHON", "REFUSED", "VLLM", "find_python"]
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


class VLLM(Wired):
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
        super().__init__(model, processor, max_length=max_length, images=images, dtype=dtype, tolerance=tolerance)
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

    def _reload(self) -> None:
        self._call({"op": "reload", "path": str(self._checkpoint)})

    def _answers(
        self,
        requests: Sequence[Request],
        wires: Sequence[dict[str, Any]],
        pictures: Pictures,
        progress: Progress | None,
    ) -> list[list[dict[str, Any]]]:
        sent = [
            {**one, "sampling": {**one["sampling"], "seed": seed(request, i)}}
            for request, one in zip(requests, wires, strict=True)
            for i in range(request.first, request.first + request.n)
        ]
        message = {"op": "generate", "images": pictures, "requests": sent}
        answers = iter(self._call(message, lambda done: _tell(progress, done, sent)))
        return [[next(answers) for _ in range(request.n)] for request in requests]

    def _call(self, message: dict[str, Any], done: Any = None) -> Any:
        """The worker's answer; `done(n)` hears how far it has come."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise Gone(f"vLLM's process has ended{self._last_words()}") from None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "done" in answer:
                if done is not None:
                    done(answer["done"])
                continue
            if "error" in answer:
                raise RuntimeError(f"vLLM failed: {answer['error']}{self._last_words()}")
            return answer["result"]
        raise Gone(f"vLLM's process has ended{self._last_words()}")

    def _last_words(self) -> str:
        if self._log.closed:
            return ""
        self._log.seek(0)
        return "; the end of its log:\n" + self._log.read()[-2000:].decode(errors="replace")


def _tell(progress: Progress | None, done: int, sent: Sequence[object]) -> None:
    if progress is not None:
        progress(done, len(sent))
