"""`rl.rollout`: who generates the responses of online RL, with which weights, and when (paper §4.2.3, §5.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import Field

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import RlSection

HERE: Loc = ("rl", "rollout")
PACE = frozenset(
    {"url", "key_env", "folder", "served_folder", "timeout", "tries", "offload", "concurrency", "tolerance"}
)
"""Options that change nothing of what is asked for: no stage is made anew for them (vLLM rounds otherwise with another
`concurrency`, but it gives no two runs the same bytes anyway)"""
COLDEST_OF_VLLM = 0.01
_OF_VLLM = ("concurrency", "folder", "key_env", "served_folder", "timeout", "tolerance", "tries", "url")
_OF_OURS = ("kv_tokens", "offload")


class RolloutSection(Section):
    """Where rollouts come from."""

    backend: Literal["own", "vllm"] = Field(
        default="own", description="own: our engine in process; vllm: a vLLM server (url), or a process of vLLM's here"
    )
    weights: Literal["same", "int8", "fp8"] = Field(
        default="same",
        description="of the own engine: the trainer's, or a quantised copy (int8 on a CPU, fp8 on an NVIDIA GPU of "
        "compute capability 8.9 or more), made anew after each update",
    )
    tis: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="truncated importance sampling; auto: unless the rollouts are of the very policy that is trained",
    )
    tis_cap: float = Field(default=2.0, gt=0, description="largest importance weight of a token, C")
    stop_loops: bool = Field(
        default=True, description="stop responses that have become a loop or noise; such a response counts as wrong"
    )
    ahead: bool = Field(
        default=False, description="generate the next step's responses during the update, by the weights before it"
    )
    offload: bool = Field(
        default=False,
        description="free the engine's caches during the update, and keep the optimizer's state in host memory during "
        "generation (a GPU that both share)",
    )
    batch: int = Field(default=128, ge=1, description="responses under way together")
    kv_tokens: int = Field(
        default=32768, ge=64, description="tokens whose keys and values the own engine holds; the memory that it takes"
    )
    url: str | None = Field(
        default=None, description="address of a vLLM server (http://host:port); a process of vLLM's here when empty"
    )
    key_env: str | None = Field(default=None, min_length=1, description="environment variable with the server's key")
    folder: str | None = Field(
        default=None, min_length=1, description="where weights for the server are written: a folder that both see"
    )
    served_folder: str | None = Field(
        default=None, min_length=1, description="that folder as the server names it, where it has another name there"
    )
    timeout: float = Field(default=600.0, gt=0, description="seconds for one answer of the server")
    tries: int = Field(default=5, ge=1, description="tries of a request before vLLM counts as gone")
    concurrency: int = Field(default=64, ge=1, description="requests (groups) under way at the server")
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="largest mean difference of vLLM's log-probabilities from the model's, looked at after each "
        "update; by the weights' type when empty (fp32: 0.002, bf16: 0.08); a quantised server needs more",
    )


def contradictions(rl: RlSection) -> Iterator[tuple[Loc, str]]:
    """Options that cannot hold together."""
    rollout = rl.rollout
    if rollout.backend == "vllm" and rollout.url is not None:
        yield from _address(rollout)
    if rollout.backend == "vllm" and rl.temperature < COLDEST_OF_VLLM:
        yield ("rl", "temperature"), f"{rl.temperature} is taken as another by vLLM; use {COLDEST_OF_VLLM} or more"
    if rl.device == "cpu":
        if rollout.offload:
            yield (*HERE, "offload"), "makes room on a GPU, and rl.device is cpu"
        if rollout.backend == "own" and rollout.weights == "fp8":
            yield (*HERE, "weights"), "fp8 is computed on a GPU, and rl.device is cpu; use int8"
    if rl.device == "cuda" and rollout.backend == "own" and rollout.weights == "int8":
        yield (*HERE, "weights"), "int8 is computed on the CPU, and rl.device is cuda; use fp8"
    if rollout.ahead and rollout.offload:
        yield (
            (*HERE, "offload"),
            "with rl.rollout.ahead the engine generates while the update runs: neither can make room for the other",
        )


def _address(rollout: RolloutSection) -> Iterator[tuple[Loc, str]]:
    parts = urlsplit(rollout.url or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield (*HERE, "url"), f"'{rollout.url}' is no address of a server; give http://host:port"
    elif parts.username or parts.password:
        yield (*HERE, "url"), "holds a key; name the environment variable that has it in rl.rollout.key_env"
    if rollout.folder is None:
        yield (
            (*HERE, "folder"),
            "is missing: the server reads new weights from a folder that it and this process both see; name one",
        )


def idle(rl: RlSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    rollout = rl.rollout
    written = rollout.model_fields_set
    if rollout.backend == "own":
        for name in sorted(written.intersection(_OF_VLLM)):
            yield (*HERE, name), "rl.rollout.backend is own", (*HERE, "backend")
    else:
        if rollout.url is None:
            for name in sorted(written.intersection(_OF_VLLM) - {"url", "tries", "tolerance"}):
                yield (*HERE, name), "rl.rollout.url is empty: vLLM runs in a process of ours", (*HERE, "url")
        elif "batch" in written:
            yield (*HERE, "batch"), "the server sets its own (--max-num-seqs)", (*HERE, "url")
        for name in sorted(written.intersection(_OF_OURS)):
            yield (*HERE, name), "vLLM has its own memory (rl.rollout.backend)", (*HERE, "backend")
        if rollout.weights != "same":
            yield (*HERE, "weights"), "vLLM has its own weights (start it with --quantization)", (*HERE, "backend")
    if rollout.tis == "never" and exact(rollout):
        yield (*HERE, "tis"), "the rollouts are of the very policy that is trained", (*HERE, "weights")
    if "tis_cap" in written:
        if rollout.tis == "never":
            yield (*HERE, "tis_cap"), "rl.rollout.tis is never", (*HERE, "tis")
        elif rollout.tis == "auto" and exact(rollout):
            yield (
                (*HERE, "tis_cap"),
                "the rollouts are of the very policy that is trained, which needs no correction",
                (*HERE, "weights"),
            )


def exact(rollout: RolloutSection) -> bool:
    """Whether rollouts are of the policy that is trained, up to rounding: our engine, its weights, and in step."""
    return rollout.backend == "own" and rollout.weights == "same" and not rollout.ahead
