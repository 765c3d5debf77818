"""Our own server of rollouts: tokens in, tokens with log p out, and new weights from a folder (`open4ov rollout`).

It speaks what `servers.py` uses of vLLM's protocol, and is guarded as the server of answers is: every route but
`/health` wants a key where keys are set, bodies and pictures have limits, errors have fixed words. Weights are read
from the folders that it was started with only (`folders.py`). Whoever has a key can change the weights.

While weights are taken over nothing is generated: what is under way is given up. A label belongs to the weights that
the engine had when it was given, so no response can bear that of others; weights without one are told as "".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from open4ov.engine.request import Completion
from open4ov.engine.rollouts import asked as wire
from open4ov.engine.rollouts import folders as weights
from open4ov.engine.rollouts.address import OWN
from open4ov.engine.service import Service
from open4ov.engine.serving import body
from open4ov.engine.serving.answer import told, while_there
from open4ov.engine.serving.decoder import Decoder
from open4ov.engine.serving.faults import without_route
from open4ov.engine.serving.gate import Gate, Guard, Visit
from open4ov.engine.serving.pictures import Pictures

FIRST = "default"
"""The label of the weights that a server begins with, as vLLM has it"""


def create_app(
    service: Service, folders: Sequence[Path], keys: Sequence[str] = (), quantized: str | None = None
) -> FastAPI:
    """The application. `folders`: from which weights are read; `keys`: those that are let in (none: everybody);
    `quantized`: what the engine's weights are, for those who ask."""
    engine = service.engine
    gate, pictures = Gate(keys), Pictures(Decoder())
    config, vocabulary = engine.model.config, engine.model.config.text.vocab_size
    most = body.MAX_VALUES + engine.longest
    names, taking = _Names(engine.weight_version), asyncio.Lock()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        pictures.decoder.warm()
        yield
        pictures.decoder.close()

    app = FastAPI(title="open4ov rollouts", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, gate=gate)
    app.state.gate = gate

    @app.get("/health")
    async def health() -> Response:
        if gate.ending:
            return PlainTextResponse("the server is ending\n", 503)
        return PlainTextResponse("ok\n") if service.alive else PlainTextResponse("the engine has stopped\n", 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.text(engine), media_type="text/plain; version=0.0.4")

    @app.get("/weight_info")
    async def weight_info() -> Response:
        precision = "bf16" if "bfloat16" in str(engine.dtype) else "fp32"
        about = {"engine": OWN, "precision": precision, "quantized": quantized}
        return JSONResponse({"weight_version": names.of(engine.weight_version), **about})

    @app.post("/inference/v1/generate")
    async def generate(request: Request) -> Response:
        visit: Visit = request.state.visit
        try:
            asked = wire.Asked.model_validate_json(await body.read(request, visit, most))
            return await while_there(request, answered(asked, visit))
        except Exception as fault:
            return told(fault)

    async def answered(asked: wire.Asked, visit: Visit) -> Response:
        images = [
            await pictures.picture(one.url, f"content_parts.{place}.url", visit.hold, visit.salt)
            for place, one in enumerate(asked.content_parts)
        ]
        asked.content_parts.clear()
        prepared, document = await run_in_threadpool(
            wire.to_request, asked, engine.processor, vocabulary, images, visit.salt
        )
        found: dict[int, Completion] = {}
        updates = service.submit(prepared, document)
        try:
            async for update in updates:
                if update.completion is not None:
                    found[update.index] = update.completion
        finally:
            await updates.aclose()
        prompt: list[int] = document.input_ids.tolist()
        return JSONResponse(wire.answer(prompt, found, names.of(*{one.weight_version for one in found.values()})))

    @app.post("/collective_rpc")
    async def reload(request: Request) -> Response:
        try:
            asked = wire.Reload.model_validate_json(await body.read(request, request.state.visit))
            async with taking:
                folder = await run_in_threadpool(weights.allowed, asked.kwargs.weights_path, folders)
                given = await run_in_threadpool(weights.read, folder, config)
                await service.change(lambda: engine.update_weights(given))
            return JSONResponse({"results": [None]})
        except Exception as fault:
            return told(fault)

    @app.post("/update_weight_version")
    async def name(request: Request) -> Response:
        try:
            asked = wire.Named.model_validate_json(await body.read(request, request.state.visit))
        except Exception as fault:
            return told(fault)
        names.give(engine.weight_version, asked.new_version)
        return await done()

    async def done() -> Response:
        """What is computed by older weights is forgotten when others are taken over."""
        return JSONResponse({"success": True})

    for path in ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"):
        app.post(path)(done)

    without_route(app)
    return app


class _Names:
    """How weights are called by which the engine answers; `version` is its own count of them."""

    def __init__(self, version: int) -> None:
        self._version, self._label = version, FIRST

    def give(self, version: int, label: str) -> None:
        self._version, self._label = version, label

    def of(self, *versions: int) -> str:
        """Nothing for those that have no name, or no longer."""
        return self._label if set(versions) == {self._version} else ""
