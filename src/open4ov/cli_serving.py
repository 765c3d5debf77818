"""The commands that serve: `serve`, `rollout`, `stage`, `route` and `vllm-plan`; parse, call, print."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from open4ov.errors import UserError

app = typer.Typer()
ROUTER_KEYS = "OPEN4OV_ROUTER_KEYS"
"""Holds the keys of routers, which say whose each request is"""


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="a run directory (its last model), or a model's folder")],
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    name: Annotated[str, typer.Option(help="what the model is called in requests")] = "open4ov",
    api_key_env: Annotated[
        str, typer.Option(help="the environment variable that holds the keys, separated by commas")
    ] = "OPEN4OV_API_KEYS",
    max_batch: Annotated[int, typer.Option(min=1, help="completions under way together")] = 64,
    kv_tokens: Annotated[int, typer.Option(min=256, help="tokens whose keys and values are held")] = 32768,
    queue: Annotated[int, typer.Option(min=1, help="requests under way or waiting; more are turned away")] = 128,
    keep_degenerate: Annotated[
        bool, typer.Option("--keep-degenerate", help="do not stop responses that have become loops or noise")
    ] = False,
    quantize: Annotated[str | None, typer.Option(help="the decoder's weights: int8 (CPU) or fp8 (GPU)")] = None,
    adapter: Annotated[Path | None, typer.Option(metavar="FILE", help="a LoRA adapter to merge in")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="where it computes; auto: a CUDA card where there is one")
    ] = "auto",
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="a LoRA adapter that requests choose by the model name NAME"),
    ] = None,
    encode_at: Annotated[str, typer.Option(metavar="HOST:PORT,...", help="encode stages (open4ov stage)")] = "",
    prefill_at: Annotated[str, typer.Option(metavar="HOST:PORT,...", help="prefill stages")] = "",
    encode_workers: Annotated[int, typer.Option(min=0, help="encode stages to start on this machine")] = 0,
    prefill_workers: Annotated[int, typer.Option(min=0, help="prefill stages to start on this machine")] = 0,
    stage_fallback: Annotated[
        bool, typer.Option(help="compute here what a stage does not give; else the request fails with 503")
    ] = True,
    stage_memory: Annotated[bool, typer.Option(help="shared memory with stages on this machine, not TCP")] = True,
    max_per_key: Annotated[int, typer.Option(min=0, help="requests of one key under way; 0: no limit")] = 0,
    share_cache: Annotated[
        bool,
        typer.Option("--share-cache", help="let keys find what was computed for other keys (its speed tells of it)"),
    ] = False,
    fetch_images: Annotated[
        bool, typer.Option("--fetch-images", help="fetch pictures at https URLs, from public addresses only")
    ] = False,
    image_host: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="fetch pictures at https URLs, from these hosts only")
    ] = None,
    sessions: Annotated[int, typer.Option(min=0, help="sessions open at once; 0: none")] = 64,
    sessions_per_key: Annotated[int, typer.Option(min=1, help="sessions of one key open at once")] = 32,
    session_idle: Annotated[float, typer.Option(min=0.1, help="seconds without a message that end a session")] = 300.0,
    session_picture_mb: Annotated[
        int, typer.Option(min=1, help="MiB of all sessions' pictures; a key may hold as much as it leaves free")
    ] = 1024,
    drain_seconds: Annotated[float, typer.Option(min=0, help="on SIGTERM: time for requests under way")] = 60.0,
) -> None:
    """Serve a model by the OpenAI API (chat completions; pictures as data URLs and, if wanted, https URLs).

    OPEN4OV_ROUTER_KEYS: keys of routers (their OPEN4OV_NODE_KEY), whose clients are then kept apart.
    """
    router_keys = _split(ROUTER_KEYS)
    keys = _keys(api_key_env, host, router_keys)
    if (quantize or adapter) and (prefill_at or prefill_workers):
        raise UserError(
            "prefill stages have the folder's own weights: leave out --quantize and --adapter, or the stages"
        )
    if encode_at or prefill_at or encode_workers or prefill_workers:
        if device == "cuda" or quantize == "fp8":
            option = "--device cuda" if device == "cuda" else "--quantize fp8"
            raise UserError(f"{option}: servers with stages compute on the CPU, as stages do; leave out one of them")
        device = "cpu"
    adapters = _named(lora or (), name)
    folder = model_dir(model)

    from open4ov.engine.serving.bound import bound, url

    listener = bound(host, port)  # before a model is loaded for nothing

    import torch

    from open4ov.engine.degeneration import Degeneration
    from open4ov.engine.disaggregated.run import StageOptions, stages_of
    from open4ov.engine.loaded import loaded
    from open4ov.engine.server import create_app
    from open4ov.engine.service import Service
    from open4ov.engine.serving.fetch import Fetcher
    from open4ov.engine.serving.listen import server
    from open4ov.engine.sessions.session import Limits

    stages = StageOptions(encode_at, prefill_at, encode_workers, prefill_workers, stage_fallback, stage_memory)
    engine = loaded(folder, quantize, adapter, device, max_batch=max_batch, kv_tokens=kv_tokens)
    if stages.any and torch.cuda.is_available():
        typer.echo("open4ov: servers with stages compute on the CPU; the CUDA card is not used", err=True)
    for called, path in adapters.items():
        engine.adapters.add(called, path)
    closing = ExitStack()
    service = Service(engine, queue, closing.enter_context(stages_of(engine, folder, stages)) if stages.any else None)
    try:
        app = create_app(
            service,
            name,
            keys,
            None if keep_degenerate else Degeneration(),
            max_per_key=max_per_key,
            share_cache=share_cache,
            fetcher=Fetcher(image_host) if fetch_images or image_host else None,
            router_keys=router_keys,
            limits=Limits(
                sessions=sessions,
                per_key=sessions_per_key,
                picture_bytes=session_picture_mb * 2**20,
                idle=session_idle,
            ),
        )
        running = server(app, host, port, drain_seconds)
        guarded = "with" if keys or router_keys else "without"
        running.said = f"open4ov: {name} at {url(listener)} ({guarded} keys)"
        running.run([listener])
    finally:
        service.stop()
        closing.close()


@app.command()
def rollout(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="a run directory (its last model), or a model's folder")],
    folder: Annotated[
        list[Path],
        typer.Option(metavar="FOLDER", help="the trainer's rl.rollout.folder; weights are read from it only"),
    ],
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    api_key_env: Annotated[
        str, typer.Option(help="the environment variable that holds the keys, separated by commas")
    ] = "OPEN4OV_API_KEYS",
    max_batch: Annotated[int, typer.Option(min=1, help="responses under way together")] = 128,
    kv_tokens: Annotated[int, typer.Option(min=256, help="tokens whose keys and values are held")] = 32768,
    queue: Annotated[int, typer.Option(min=1, help="requests under way or waiting; more are turned away")] = 1024,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a CUDA card where there is one")
    ] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="as rl.precision: what it computes in")
    ] = "auto",
    quantize: Annotated[str | None, typer.Option(help="the decoder's weights: int8 (CPU) or fp8 (GPU)")] = None,
    drain_seconds: Annotated[float, typer.Option(min=0, help="on SIGTERM: time for requests under way")] = 60.0,
) -> None:
    """Generate rollouts for a training elsewhere (rl.rollout.backend: served), by weights that it writes to FOLDER.

    Whoever has a key can change the weights that this server answers by.
    """
    keys = _keys(api_key_env, host)
    for one in folder:
        if not one.is_dir():
            raise UserError(
                f"--folder {one}: there is no such folder; make it, or name the one that the trainer writes to"
            )
    directory = model_dir(model)

    from open4ov.engine.serving.bound import bound, url

    listener = bound(host, port)  # before a model is loaded for nothing

    from open4ov import machine, training
    from open4ov.engine import Engine
    from open4ov.engine.quantize import load
    from open4ov.engine.rollouts.app import create_app
    from open4ov.engine.service import Service
    from open4ov.engine.serving.listen import server
    from open4ov.model import Processor

    place = machine.answering(quantize, device, "--device", "--quantize")
    half = training.autocast(precision, place)
    loaded = load(directory, quantize, half=half, device=place)
    engine = Engine(loaded, Processor.from_pretrained(directory), max_batch, kv_tokens, autocast=half, watch=False)
    service = Service(engine, queue)
    try:
        running = server(create_app(service, folder, keys, quantize), host, port, drain_seconds)
        running.said = (
            f"open4ov: rollouts at {url(listener).removesuffix('/v1')} ({'with' if keys else 'without'} keys)"
        )
        running.run([listener])
    finally:
        service.stop()


@app.command()
def stage(
    kind: Annotated[Literal["encode", "prefill"], typer.Argument(help="what it does for the servers that ask it")],
    model: Annotated[Path, typer.Argument(metavar="DIR", help="the model that the servers have")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="where to listen; port 0: a free one")],
    batch: Annotated[int, typer.Option(min=1, help="encode: pictures encoded together")] = 8,
    wait: Annotated[float, typer.Option(min=0, help="encode: seconds that a picture waits for others")] = 0.005,
    chunk: Annotated[int, typer.Option(min=1, help="prefill: tokens of a step")] = 1024,
    rows: Annotated[int, typer.Option(min=1, help="prefill: prompts under way together")] = 16,
    kv_tokens: Annotated[int, typer.Option(min=256, help="prefill: tokens whose keys and values are held")] = 32768,
    until_closed: Annotated[bool, typer.Option(help="end when standard input closes")] = False,
) -> None:
    """Run one stage of serving as a process of its own; servers and stages share the secret OPEN4OV_STAGE_KEY."""
    from open4ov.engine.disaggregated.run import run_stage
    from open4ov.engine.disaggregated.stages import EncodePolicy, PrefillPolicy

    prefill = PrefillPolicy(chunk, rows, kv_tokens)
    run_stage(kind, model_dir(model), listen, until_closed, EncodePolicy(batch, wait), prefill)


@app.command(name="vllm-plan")
def vllm_plan(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="a run directory (its last model), or a model's folder")],
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65534)] = 8000,
    name: Annotated[str, typer.Option(help="what the model is called in requests")] = "open4ov",
    fp8: Annotated[bool, typer.Option("--fp8", help="language model and KV cache in FP8 (Hopper and later)")] = False,
    step_tokens: Annotated[int | None, typer.Option(min=1, help="most tokens of a step (chunked prefill)")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="tokens of prompt and response")] = None,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that share the language model")] = 1,
    encoder_store: Annotated[
        Path | None, typer.Option(help="encode pictures in a process of its own, which hands them over in this folder")
    ] = None,
    rollout: Annotated[
        bool, typer.Option("--rollout", help="for online RL (rl.rollout.url); takes new weights")
    ] = False,
) -> None:
    """Print the commands that serve a model with vLLM, one process a line."""
    from open4ov.engine.vllm_plan import plan

    plans = plan(
        model_dir(model),
        name=name,
        host=host,
        port=port,
        fp8=fp8,
        step_tokens=step_tokens,
        max_length=max_length,
        tensor_parallel=tensor_parallel,
        encoder_store=encoder_store,
        rollout=rollout,
    )
    for one in plans:
        print(one.shell())


@app.command()
def route(
    nodes: Annotated[list[str], typer.Argument(metavar="URL...", help="the servers' addresses: http://HOST:PORT")],
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    api_key_env: Annotated[
        str, typer.Option(help="the environment variable that holds the keys, separated by commas")
    ] = "OPEN4OV_API_KEYS",
    health_interval: Annotated[float, typer.Option(min=0.01, help="seconds between two health checks of a node")] = 2.0,
    patience: Annotated[
        float, typer.Option(min=0, help="seconds of silence after which a node that fails its checks is given up")
    ] = 30.0,
    drain: Annotated[int, typer.Option(min=0, help="seconds that what is under way may take after SIGTERM")] = 30,
) -> None:
    """Serve several servers (open4ov serve) at one address, each session and picture by the same one.

    OPEN4OV_NODE_KEY: the key that the servers want (in their OPEN4OV_ROUTER_KEYS); without it they get the client's.
    """
    keys = _keys(api_key_env, host)

    from open4ov.engine.routing.listen import run
    from open4ov.engine.routing.nodes import Nodes
    from open4ov.engine.routing.router import create_app
    from open4ov.engine.serving.bound import bound, url

    app = create_app(Nodes(nodes, health_interval, patience=patience), keys, os.environ.get("OPEN4OV_NODE_KEY") or None)
    guarded = "with" if keys else "without"
    listener = bound(host, port)
    run(app, listener, drain, f"open4ov: {len(nodes)} nodes at {url(listener)} ({guarded} keys)")


def model_dir(path: Path) -> Path:
    """The folder of the model to ask: the last finished one of a run, a model's own, or a shipped one by name."""
    from open4ov.assets import base_dir
    from open4ov.loop.result import last_round
    from open4ov.pipeline import finished_model

    path = last_round(path)
    if (path / "run.json").exists():
        folder = finished_model(path)
        if folder is None:
            raise UserError(f"{path}: this run has no finished model yet; let it go on to sft_knowledge at least")
        return folder
    return base_dir(str(path))


def _named(given: Sequence[str], model: str) -> dict[str, Path]:
    """NAME=PATH of each adapter. Raises UserError for another form, a name given twice, and the model's own."""
    found: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name and equals and path):
            raise UserError(f"--lora {one}: write NAME=PATH")
        if name == model or name in found:
            raise UserError(f"--lora {one}: there is a model {name} already; choose another name")
        found[name] = Path(path)
    return found


def _split(variable: str) -> list[str]:
    return [key.strip() for key in os.environ.get(variable, "").split(",") if key.strip()]


def _keys(variable: str, host: str, others: Sequence[str] = ()) -> list[str]:
    """The keys in an environment variable. Raises UserError without any (nor `others`) where others than this machine
    can connect."""
    keys = _split(variable)
    if not keys and not others and host not in ("127.0.0.1", "::1", "localhost"):
        raise UserError(f"--host {host}: others could connect; set {variable} to the keys that are let in")
    return keys
