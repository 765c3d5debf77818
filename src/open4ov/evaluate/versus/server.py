"""The page where people choose between two answers. For this machine only: other machines and other pages are turned
away, as the review's are (`review/server.py`).

Nothing that the page is given tells which model said what: it gets the left answer and the right one.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from open4ov import closed_page, page_fonts
from open4ov.evaluate.versus.pairs import Pair
from open4ov.evaluate.versus.verdicts import Judge, Verdict
from open4ov.store import ImageStore

HTML = page_fonts.linked((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
HEADERS = closed_page.headers(HTML, images="'self'", fonts="'self'")
HOSTS = ("127.0.0.1", "localhost")


def create_app(pairs: Sequence[Pair], judge: Judge, images: ImageStore) -> FastAPI:
    """The application of one judge of one comparison. Identical answers are not shown."""
    shown = [pair for pair in pairs if not pair.identical]
    known = {pair.id for pair in shown}
    pictures = {sha for pair in shown for sha in pair.pictures}
    app = FastAPI(title="open4ov versus", docs_url=None, redoc_url=None, openapi_url=None)
    page_fonts.serve(app)

    @app.middleware("http")
    async def this_machine(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.hostname not in HOSTS:
            return PlainTextResponse("this page is for this machine only\n", 403)
        return await answer(request)

    @app.exception_handler(RequestValidationError)
    async def not_usable(request: Request, error: RequestValidationError) -> Response:
        # without what was sent: it may hold half a character, which no answer can
        told = [{"loc": one["loc"], "msg": one["msg"]} for one in error.errors()]
        return Response(json.dumps({"detail": told}), 422, media_type="application/json")

    @app.get("/")
    def page() -> Response:
        return HTMLResponse(HTML, headers=HEADERS)

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/api/pairs")
    def listed() -> dict[str, Any]:
        rows = [_told(pair, judge.verdicts.get(pair.id)) for pair in shown]
        return {"judge": judge.name, "pairs": rows}

    @app.get("/images/{sha}")
    def image(sha: str) -> Response:
        if sha not in pictures or not images.path(sha).is_file():
            raise HTTPException(404)
        return FileResponse(images.path(sha), media_type="image/png", headers={"X-Content-Type-Options": "nosniff"})

    @app.post("/api/verdicts")
    async def decide(verdict: Verdict, x_open4ov: Annotated[str, Header()] = "") -> dict[str, Any]:
        if x_open4ov != "versus":
            raise HTTPException(403, "verdicts come from the page itself")
        if verdict.pair not in known:
            raise HTTPException(404, "there is no such pair")
        await run_in_threadpool(judge.decide, verdict)
        return {"decided": sum(pair.id in judge.verdicts for pair in shown), "of": len(shown)}

    return app


def _told(pair: Pair, verdict: Verdict | None) -> dict[str, Any]:
    """What the page may know of a pair: sides, not models."""
    return {
        "id": pair.id,
        "earlier": pair.earlier,
        "question": pair.question,
        "pictures": pair.pictures,
        "left": pair.left,
        "right": pair.right,
        "choice": verdict.choice if verdict else None,
    }
