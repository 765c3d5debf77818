"""Why a request brought no reply, told apart: each kind has its own count, and its own consequence.

| kind | what happened | what follows |
|---|---|---|
| `rate_limited` | 429 | tried again no sooner than it says; a trial tells whether it means everybody (`pause.py`) |
| `overloaded` | 408, 503 | tried again later, fewer at once |
| `timeout` | no whole reply in time | the same |
| `server_error` | any other 5xx, 409 | tried again later |
| `closed`, `empty`, `html`, `not_json`, `truncated` | the reply broke off, or is none | the same |
| `embedding` | the reply does not hold the rows that were asked for | the same |
| `unreachable` | no connection | tried again later; then the stage ends |
| `redirect`, `encoding`, `huge` | a reply that is not accepted | the question is given up |
| `http_400` and the like | the endpoint does not accept the question | the question is given up |
| `refused` | 401, 402, 403, 404, or no quota left | the stage ends |
| `not_local` | `data.local_only`, and the name leads elsewhere | the stage ends |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import openai

from open4ov.mllm.concurrency import Outcome, retry_after
from open4ov.mllm.transport import Fault

SECRET = 12
"""Characters from which a key is no common word, so that what holds it repeats it"""
LONGEST_PAUSE = 600.0
"""Seconds; who is told to wait longer had better come back another time"""
_UNSEEN = ("timeout", "closed", "empty", "huge", "encoding")


@dataclass(frozen=True)
class Failure:
    """`again`: another try may help; `everyone`: no other question will fare better; `charged`: it may have cost;
    `unseen`: an answer of any length may have been written and charged, though none came. `pause`: seconds
    for which the endpoint wants to be left alone."""

    kind: str
    reason: str
    outcome: Outcome = "failed"
    again: bool = True
    everyone: bool = False
    charged: bool = False
    unseen: bool = False
    pause: float = 0.0


def failure(error: Exception, secret: str) -> Failure | None:
    """What an exception of the client means; None for one that is a fault of ours."""
    if isinstance(error, Fault):
        late = error.kind == "timeout"
        return Failure(
            error.kind,
            error.reason,
            "overloaded" if late else "failed",
            error.again,
            everyone=error.kind == "not_local",
            charged=error.kind not in ("unreachable", "redirect", "not_local"),
            unseen=error.kind in _UNSEEN,
        )
    if isinstance(error, openai.APIStatusError):
        return _status(error, secret)
    if isinstance(error, openai.APIConnectionError):
        return Failure("closed", "the connection to the endpoint failed", charged=True, unseen=True)
    if isinstance(error, openai.APIError | ValueError | RecursionError):
        return Failure("truncated", "the reply is no whole JSON", charged=True, unseen=True)
    return None


def _status(error: openai.APIStatusError, secret: str) -> Failure:
    status, code = error.status_code, _code(error, secret)
    reason = f"the endpoint answered HTTP {status}{f' ({code})' if code else ''}"
    wait = retry_after(error.response.headers)
    if status == 429 and code == "insufficient_quota":
        return Failure("refused", f"{reason}: its quota is used up", again=False, everyone=True)
    if wait is not None and wait > LONGEST_PAUSE:
        told = f"{reason} and asks to wait {wait:.0f} s; give the same command again then"
        return Failure("rate_limited" if status == 429 else "overloaded", told, again=False, everyone=True)
    if status == 429:
        return Failure("rate_limited", reason, "limited", pause=wait or 0.0)
    if status in (408, 503):
        return Failure("overloaded", reason, "overloaded", pause=wait or 0.0)
    if status >= 500 or status == 409:
        return Failure("server_error", reason, pause=wait or 0.0)
    if status in (401, 402, 403, 404):
        return Failure("refused", f"{reason}; check base_url, model and key", again=False, everyone=True)
    hint = ""
    if status in (400, 422) and re.search(r"max_(completion_)?tokens", str(error.body)):
        hint = "; is it the name under which it wants max_tokens (data.providers.*.max_tokens_field)?"
    return Failure(f"http_{status}", f"{reason}: it does not accept this question{hint}", again=False)


def _code(error: openai.APIStatusError, secret: str) -> str:
    """The endpoint's own name for the error, if it is a plain word; its message is never repeated."""
    body: Any = error.body
    if not isinstance(body, dict):
        return ""
    told = cast("dict[str, Any]", body)
    for name in ("code", "type"):
        word = told.get(name)
        if (
            isinstance(word, str)
            and re.fullmatch(r"[a-z_]{3,40}", word)
            and (len(secret) < SECRET or secret not in word)
        ):
            return word
    return ""
