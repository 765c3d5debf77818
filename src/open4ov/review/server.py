"""The review's page and what it asks for. For this machine only: other machines and other pages are turned away.

A page of another site could send requests to this machine through the reviewer's browser. So requests must name this
machine as their host (no other name that points here), and decisions must carry a header that other sites cannot send.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

from open4ov import closed_page, page_fonts
from open4ov.review import decisions
from open4ov.review.collection import FACETS, Collection, shown
from open4ov.review.decisions import Decision, Others, Reviewer

HTML = page_fonts.linked((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
HEADERS = closed_page.headers(HTML, images="'self'", fonts="'self'")
MOST = 200
"""Samples given at a time"""
VALUES = 1000
"""Values of a facet that can be chosen, the commonest; the others are found by searching"""
HOSTS = ("127.0.0.1", "localhost")


def create_app(collection: Collection, reviewer: Reviewer) -> FastAPI:
    """The application of one reviewer of one collection."""
    others = Others(collection.reviews, reviewer)
    app = FastAPI(title="open4ov review", docs_url=None, redoc_url=None, openapi_url=None)
    page_fonts.serve(app)

    @app.middleware("http")
    async def this_machine(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.hostname not in HOSTS:
            return PlainTextResponse("this page is for this machine only\n", 403)
        return await answer(request)

    @app.get("/")
    def page() -> Response:
        return HTMLResponse(HTML, headers=HEADERS)

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.exception_handler(RequestValidationError)
    async def not_usable(request: Request, error: RequestValidationError) -> Response:
        # without what was sent: it may hold half a character, which no answer can
        told = [{"loc": one["loc"], "msg": one["msg"]} for one in error.errors()]
        return Response(json.dumps({"detail": told}), 422, media_type="application/json")

    @app.get("/api/counts")
    def counts() -> dict[str, Any]:
        facets = collection.counts(reviewer.decisions)
        some = {name: dict(islice(values.items(), VALUES)) for name, values in facets.items()}
        rest = {name: len(values) - VALUES for name, values in facets.items() if len(values) > VALUES}
        return {"reviewer": reviewer.name, "samples": len(collection.samples), "facets": some, "rest": rest}

    @app.get("/api/agreement")
    def agreement() -> list[dict[str, Any]]:
        return decisions.agreement(others.read())

    @app.get("/api/samples")
    def samples(
        request: Request,
        text: str = "",
        start: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=MOST)] = 50,
    ) -> dict[str, Any]:
        wanted = {name: value for name, value in request.query_params.items() if name in FACETS and value}
        found = collection.find(wanted, text, reviewer.decisions)
        part = [collection.samples[place] for place in found[start : start + count]]
        return {"found": len(found), "samples": [shown(one, reviewer.decisions.get(one.id)) for one in part]}

    @app.get("/images/{sha}")
    def image(sha: str) -> Response:
        if not (len(sha) == 64 and all(letter in "0123456789abcdef" for letter in sha)):
            raise HTTPException(404)
        path = collection.images.path(sha)
        if not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, media_type="image/png", headers={"X-Content-Type-Options": "nosniff"})

    @app.post("/api/decisions")
    async def decide(decision: Decision, x_open4ov: Annotated[str, Header()] = "") -> dict[str, Any]:
        if x_open4ov != "review":
            raise HTTPException(403, "decisions come from the review's own page")
        if decision.sample not in collection.places:
            raise HTTPException(404, "there is no such sample")
        await run_in_threadpool(reviewer.decide, decision)
        return {"review": collection.verdicts(reviewer.decisions)}

    return app
