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
_OF_OTHERS = ("concurrency", "folder", "key_env", "served_folder", "timeout", "tolerance", "tries", "url")
_OF_OURS = ("kv_tokens", "offload")


class RolloutSection(Section):
    """Where rollouts come from."""

    backend: Literal["own", "served", "vllm"] = Field(
        default="own",
        description="own: our engine in process; served: our engine by address (url, `open4ov rollout`); vllm: servers "
        "of vLLM's (url; some may be ours), or a process of vLLM's here",
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
    url: str | list[str] | None = Field(
        default=None,
        description="address of a server (http://host:port), or a list of them, which share the prompts; with vllm a "
        "process of vLLM's here when empty",
    )
    key_env: str | None = Field(default=None, min_length=1, description="environment variable with the servers' key")
    folder: str | None = Field(
        default=None, min_length=1, description="where weights for servers are written: a folder that all see"
    )
    served_folder: str | None = Field(
        default=None, min_length=1, description="that folder as servers name it, where it has another name there"
    )
    timeout: float = Field(default=600.0, gt=0, description="seconds for one answer of a server")
    tries: int = Field(default=5, ge=1, description="tries before vLLM, or the last of the servers, counts as gone")
    concurrency: int = Field(default=64, ge=1, description="requests (groups) under way at each server")
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="largest mean difference of vLLM's or a server's log-probabilities from the model's, looked at "
        "after each update; by the type that is computed in when empty (fp32: 0.002, bf16: 0.08); a quantised server "
        "needs more",
    )

    @property
    def urls(self) -> list[str]:
        """The servers' addresses."""
        return [self.url] if isinstance(self.url, str) else self.url or []


def contradictions(rl: RlSection) -> Iterator[tuple[Loc, str]]:
    """Options that cannot hold together."""
    rollout = rl.rollout
    if rollout.backend != "own":
        if rollout.url is not None:
            yield from _addresses(rollout)
        elif rollout.backend == "served":
            yield (*HERE, "url"), "is missing: the address of a server (`open4ov rollout DIR`), or a list of them"
        if rl.temperature < COLDEST_OF_VLLM:
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


def _addresses(rollout: RolloutSection) -> Iterator[tuple[Loc, str]]:
    if not rollout.urls:
        yield (*HERE, "url"), "is an empty list: name a server's address, http://host:port"
    for url in rollout.urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield (*HERE, "url"), f"'{url}' is no address of a server; give http://host:port"
        elif parts.username or parts.password:
            yield (*HERE, "url"), "holds a key; name the environment variable that has it in rl.rollout.key_env"
    plain = [url.rstrip("/").removesuffix("/v1").lower() for url in rollout.urls]
    for twice in sorted({url for url in plain if plain.count(url) > 1}):
        yield (*HERE, "url"), f"'{twice}' stands there more than once"
    if rollout.folder is None:
        yield (
            (*HERE, "folder"),
            "is missing: servers read new weights from a folder that they and this process see; name one",
        )


def idle(rl: RlSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    rollout = rl.rollout
    written = rollout.model_fields_set
    if rollout.backend == "own":
        for name in sorted(written.intersection(_OF_OTHERS)):
            yield (*HERE, name), "rl.rollout.backend is own", (*HERE, "backend")
    else:
        if rollout.url is None:
            for name in sorted(written.intersection(_OF_OTHERS) - {"url", "tries", "tolerance"}):
                yield (*HERE, name), "rl.rollout.url is empty: vLLM runs in a process of ours", (*HERE, "url")
        elif "batch" in written:
            own = "--max-batch" if rollout.backend == "served" else "--max-num-seqs"
            yield (*HERE, "batch"), f"a server sets its own ({own})", (*HERE, "url")
        who, option = ("a server", "--quantize") if rollout.backend == "served" else ("vLLM", "--quantization")
        for name in sorted(written.intersection(_OF_OURS)):
            yield (*HERE, name), f"{who} has its own memory (rl.rollout.backend)", (*HERE, "backend")
        if rollout.weights != "same":
            yield (*HERE, "weights"), f"{who} has its own weights (start it with {option})", (*HERE, "backend")
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
