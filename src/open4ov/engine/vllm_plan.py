"""How vLLM's servers are started for a model: exact command lines and environments, for vLLM 0.32.

Nothing is started here: what runs where is the user's (a shell, Slurm, Kubernetes). tests/engine/test_vllm.py has every
plan read by vLLM's own parser.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from open4ov.errors import UserError

MODULE = "vllm.entrypoints.openai.api_server"
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""vLLM asks no hub for files and reports to nobody"""
KEY = "VLLM_API_KEY"
HERE = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Plan:
    """One process. `role`: "serve", "encode" or "language"."""

    role: str
    arguments: list[str]
    environment: dict[str, str]

    def command(self, python: str = "python") -> list[str]:
        """`python`: the interpreter of vLLM's environment."""
        return [python, "-m", MODULE, *self.arguments]

    def shell(self, python: str = "python") -> str:
        """The same as a line for a shell."""
        setting = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        return f"{setting} {shlex.join(self.command(python))}"


def plan(
    model: Path | str,
    *,
    name: str = "open4ov",
    host: str = "127.0.0.1",
    port: int = 8000,
    fp8: bool = False,
    step_tokens: int | None = None,
    max_length: int | None = None,
    images: int = 16,
    tensor_parallel: int = 1,
    encoder_store: Path | str | None = None,
    rollout: bool = False,
) -> list[Plan]:
    """The processes that serve `model`: one, or with `encoder_store` two, of which the first only encodes pictures.

    `fp8`: weights of the language model (a scale for each channel, tokens scaled as they come) and the KV cache in
    FP8; the vision tower and the head stay as they are. `step_tokens`: most tokens of a step; longer prompts are
    computed in pieces. `max_length`: tokens of prompt and response (None: the model's). `images`: most of a request.
    `encoder_store`: a folder that both processes see, through which the features of pictures go from the encoder
    (`port`) to the language model (`port` + 1). A client, or a proxy, sends a request with pictures first to the
    encoder (with max_tokens 1), then to the language model.

    `rollout`: for online RL (`rollouts/servers.py`): tokens in and out, log p at the request's temperature, and new
    weights by a path. What takes new weights asks for no key: whoever reaches the port can give others.

    No URL is fetched for a client, and keys come from VLLM_API_KEY, which is not printed. Raises UserError for sizes
    that are not, and without keys where others than this machine can connect.
    """
    for option, value in (("tensor_parallel", tensor_parallel), ("images", images), ("step_tokens", step_tokens)):
        if value is not None and value < 1:
            raise UserError(f"{option} must be at least 1, not {value}")
    if not os.environ.get(KEY) and host not in HERE:
        raise UserError(f"--host {host}: others could connect; set {KEY}, here and where the command is run")
    shared = [
        *("--model", str(model), "--served-model-name", name, "--host", host),
        *("--limit-mm-per-prompt", json.dumps({"image": images, "video": 0})),
        *("--allowed-media-domains", "none.invalid"),  # data URLs only
        *("--generation-config", "vllm"),  # what a request does not say is vLLM's default, not the model folder's
        *([] if max_length is None else ["--max-model-len", str(max_length)]),
    ]
    parallel = [] if tensor_parallel == 1 else ["--tensor-parallel-size", str(tensor_parallel)]
    pieces = [] if step_tokens is None else ["--enable-chunked-prefill", "--max-num-batched-tokens", str(step_tokens)]
    language = [*parallel, *pieces]
    if fp8:
        language += ["--quantization", "fp8_per_channel", "--kv-cache-dtype", "fp8"]
        language += ["--quantization-config", json.dumps({"ignore": ["*visual.*"]})]
    if rollout and encoder_store is not None:
        raise UserError("--rollout and --encoder-store: an encoder of its own would keep features of older weights")
    if rollout:
        shared += ["--enable-scale-out", "--logprobs-mode", "processed_logprobs"]
        return [Plan("serve", [*shared, "--port", str(port), *language], {**QUIET, "VLLM_SERVER_DEV_MODE": "1"})]
    if encoder_store is None:
        return [Plan("serve", [*shared, "--port", str(port), *language], QUIET)]
    encoder = ["--mm-encoder-only", "--no-enable-prefix-caching", "--enforce-eager"]
    encoder += ["--ec-transfer-config", _transfer("ec_producer", encoder_store)]
    language += ["--ec-transfer-config", _transfer("ec_consumer", encoder_store)]
    return [
        Plan("encode", [*shared, "--port", str(port), *encoder], QUIET),
        Plan("language", [*shared, "--port", str(port + 1), *language], QUIET),
    ]


def _transfer(role: str, store: Path | str) -> str:
    """ECExampleConnector goes through files, on any device; it is the one that needs no further package."""
    return json.dumps(
        {
            "ec_connector": "ECExampleConnector",
            "ec_role": role,
            "ec_connector_extra_config": {"shared_storage_path": str(store)},
        }
    )
