"""`data.executor`: who does the steps of data construction on its chunks of images. This process, unless told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import DataSection


class ExecutorSection(Section):
    """`executor: ray` is short for `executor: {kind: ray}`."""

    kind: Literal["local", "ray"] = Field(
        default="local", description="local: this process; ray: workers of Ray Data (extra `ray`)"
    )
    address: str | None = Field(
        default=None,
        min_length=1,
        description="HOST:PORT of a Ray cluster that this machine is a node of; empty: a cluster on this machine alone",
    )
    workers: int = Field(
        default=2, ge=1, description="worker processes; a provider's concurrency is shared out to them"
    )
    cpus: float = Field(default=1.0, gt=0, description="processors that each worker takes of the cluster's")
    timeout: float = Field(default=60.0, gt=0, description="seconds within which the cluster must answer")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


def contradictions(data: DataSection) -> Iterator[tuple[Loc, str]]:
    """Values that cannot hold together."""
    executor = data.executor
    if executor.kind != "ray":
        return
    loc: Loc = ("data", "executor")
    host, colon, port = (executor.address or "").rpartition(":")
    if executor.address is not None and not (host and colon and port.isdigit() and "/" not in host):
        reason = f"{executor.address} is no HOST:PORT; start Ray on this machine too (ray start --address=HOST:PORT)"
        yield (*loc, "address"), reason
    for name, provider in data.providers.items():
        if provider.kind == "openai" and provider.concurrency < executor.workers:
            reason = (
                f"{executor.workers} workers cannot share out the {provider.concurrency} questions that provider "
                f"'{name}' takes at once; raise data.providers.{name}.concurrency or lower data.executor.workers"
            )
            yield (*loc, "workers"), reason

    endpoint = data.embedder.endpoint
    if endpoint is not None and endpoint.concurrency < executor.workers:
        reason = (
            f"{executor.workers} workers cannot share out the {endpoint.concurrency} requests that the embedder takes "
            "at once; raise data.embedder.endpoint.concurrency or lower data.executor.workers"
        )
        yield (*loc, "workers"), reason


def idle(data: DataSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    if data.executor.kind == "local":
        for field in sorted(data.executor.model_fields_set - {"kind"}):
            reason = "data.executor.kind is local, which is this process"
            yield ("data", "executor", field), reason, ("data", "executor", "kind")
