"""Stages put together from what the command line says: one as a process of its own, or a server's with all it needs."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from open4ov.engine.disaggregated.client import CallPolicy, RemoteEncode, RemotePrefill, parse_addresses
from open4ov.engine.disaggregated.decode import Decode, DecodePolicy
from open4ov.engine.disaggregated.metrics import StageMetrics
from open4ov.engine.disaggregated.server import EncodeHandler, PrefillHandler, StageServer
from open4ov.engine.disaggregated.stages import EncodePolicy, PrefillPolicy
from open4ov.engine.disaggregated.threads import Encode, Prefill
from open4ov.engine.disaggregated.transport import Address, WrongKey
from open4ov.engine.disaggregated.workers import KEY, LISTENING, Workers
from open4ov.engine.generate import Engine
from open4ov.engine.vision_cache import VisionCache
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL

_LEAST_KEY = 16


@dataclass(frozen=True)
class StageOptions:
    """Where a server's stages are. `*_at`: HOST:PORT separated by commas, of stages that others run; `*_workers`:
    processes to start (one of the two for each kind). `fallback`, see `DecodePolicy`; `share`: use shared memory with
    stages on this host."""

    encode_at: str = ""
    prefill_at: str = ""
    encode_workers: int = 0
    prefill_workers: int = 0
    fallback: bool = True
    share: bool = True

    @property
    def any(self) -> bool:
        return bool(self.encode_at or self.prefill_at or self.encode_workers or self.prefill_workers)


def run_stage(
    kind: str,
    folder: Path,
    listen: str,
    until_closed: bool = False,
    encode: EncodePolicy | None = None,
    prefill: PrefillPolicy | None = None,
) -> None:
    """Loads the model of a folder and answers at `listen` (HOST:PORT; port 0: a free one) until a signal comes, or,
    with `until_closed`, standard input closes. Raises UserError."""
    secret, address = _secret(), _addresses("--listen", listen)[0]
    try:  # before a model is loaded for nothing
        socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET).close()
    except OSError as error:
        raise UserError(f"--listen {listen}: {error.strerror}") from None
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    if until_closed:
        threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
    model, processor = Qwen3VL.from_pretrained(folder).requires_grad_(False), Processor.from_pretrained(folder)
    if kind == "encode":
        del model.text.layers[:]  # pictures do not need them
        stage = Encode(VisionCache(model, processor, watch=False), encode)
        handler = EncodeHandler(stage)
    else:
        stage = Prefill(model, processor, prefill, watch=False)
        handler = PrefillHandler(stage)
    stage.fingerprint.now()  # all weights are read; not when the first request comes
    try:
        server = StageServer(handler, secret, address)
    except OSError as error:
        stage.stop()
        raise UserError(f"--listen {listen}: {error.strerror}") from None
    print(f"{LISTENING}{server.address[0]}:{server.address[1]}", flush=True)
    try:
        end.wait()
    finally:
        server.stop()
        stage.stop()


@contextmanager
def stages_of(engine: Engine, folder: Path, options: StageOptions) -> Iterator[Decode]:
    """The decode stage of a server, with those it asks. Raises UserError for options that contradict each other and for
    children that do not come up, and for stages at an address that have another secret or other weights."""
    for kind in ("encode", "prefill"):
        if getattr(options, f"{kind}_at") and getattr(options, f"{kind}_workers"):
            raise UserError(f"--{kind}-at and --{kind}-workers contradict each other; give one of them")
    elsewhere = options.encode_at or options.prefill_at
    secret = _secret() if elsewhere else secrets.token_hex(32).encode()
    policy = CallPolicy(patience=0.0 if options.fallback else 10.0)
    metrics = StageMetrics()
    with ExitStack() as closing:

        def addresses(kind: str) -> Callable[[], list[Address]] | None:
            at, count = getattr(options, f"{kind}_at"), getattr(options, f"{kind}_workers")
            if at:
                known = _addresses(f"--{kind}-at", at)
                return lambda: known
            if not count:
                return None
            workers = Workers(kind, folder, count, secret.decode(), metrics)
            closing.callback(workers.stop)
            started.append(workers)
            return workers.addresses

        started: list[Workers] = []
        places = addresses("encode"), addresses("prefill")
        for workers in started:
            if not workers.wait():
                raise UserError(f"a {workers.kind} stage did not come up; what it says is above")
        encode = None if places[0] is None else RemoteEncode(engine, places[0], secret, metrics, policy, options.share)
        prefill = (
            None if places[1] is None else RemotePrefill(engine, places[1], secret, metrics, policy, options.share)
        )
        for remote in filter(None, (encode, prefill)):
            closing.callback(remote.close)
        decode = Decode(engine, encode, prefill, DecodePolicy(fallback=options.fallback), metrics)
        closing.callback(decode.close)
        if encode is not None and options.encode_at:
            _meet("--encode-at", encode, decode.features_of.now())
        if prefill is not None and options.prefill_at:
            _meet("--prefill-at", prefill, decode.keys_of.now())
        yield decode


def _meet(option: str, remote: RemoteEncode | RemotePrefill, fingerprint: str) -> None:
    """Shakes hands with every stage that is there. What would never answer is told now, not request by request."""
    for address in remote.addresses():
        at = f"{option} {address[0]}:{address[1]}"
        try:
            greeting = remote.greet(address)
        except WrongKey:
            raise UserError(f"{at}: the stage there has another {KEY}; set the same for server and stages") from None
        if greeting is None:
            continue
        if greeting.get("kind") != remote.kind:
            raise UserError(f"{at}: what listens there is not a stage of kind {remote.kind}")
        if greeting.get("fingerprint") != fingerprint:
            raise UserError(
                f"{at}: the stage there has other weights or options than this server; start both from the same "
                "folder, and without --quantize"
            )


def _secret() -> bytes:
    secret = os.environ.get(KEY, "")
    if len(secret) < _LEAST_KEY:
        raise UserError(f"{KEY}: set it to a secret of {_LEAST_KEY} characters or more, the same for server and stages")
    return secret.encode()


def _addresses(option: str, text: str) -> list[Address]:
    try:
        return parse_addresses(text)
    except ValueError as error:
        raise UserError(f"{option} {text}: {error}") from None
