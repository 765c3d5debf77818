"""Errors as the OpenAI API words them: one shape, fixed texts."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

NODES = ("node_lost", "bad_gateway", "no_node", "session_unavailable")
OURS = ("internal_error", "server_overloaded", "server_ending", "stage_unavailable", *NODES)


class Refused(Exception):
    """A request that is at fault: `param` names where, `message` says what to do. Never a decoder's own words."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, code: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


def fault(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """What stands under `error`."""
    kind = "server_error" if code in OURS else "rate_limit_error" if code == "rate_limited" else "invalid_request_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def error(status: int, message: str, code: str, param: str | None = None, retry: int | None = None) -> JSONResponse:
    """An answer that is an error. `retry`: seconds after which it may be tried again."""
    headers = None if retry is None else {"retry-after": str(retry)}
    return JSONResponse({"error": fault(message, code, param)}, status, headers)


def without_route(app: FastAPI) -> None:
    """What an app answers where it has no route, and where it has one for other methods."""

    @app.exception_handler(404)
    async def unknown(_request: Request, _error: Exception) -> JSONResponse:
        return error(404, "there is no such route", "not_found")

    @app.exception_handler(405)
    async def wrong_method(_request: Request, _error: Exception) -> JSONResponse:
        return error(405, "that method is not served here", "method_not_allowed")
