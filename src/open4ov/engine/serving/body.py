"""Bodies of requests, read within limits of bytes, time and JSON values."""

from __future__ import annotations

import asyncio
import re

from fastapi import Request

from open4ov.engine.serving.faults import Refused
from open4ov.engine.serving.gate import Visit

MAX_BODY = 32 * 2**20
"""Bytes"""
SECONDS = 120.0
"""In which all of it must have come"""
MAX_VALUES = 20_000
"""JSON values: a few bytes of each become hundreds, and an error for each takes its time"""
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


async def read(request: Request, visit: Visit, values: int = MAX_VALUES) -> bytes:
    """The body, which `visit` holds. `values`: most JSON values in it. Raises Refused for what is beyond a limit."""
    stated = request.headers.get("content-length", "0")
    parts, size = list[bytes](), 0
    if not stated.isdecimal() or int(stated) > MAX_BODY:
        raise Refused(f"a body may have at most {MAX_BODY} bytes", status=413)
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise Refused(f"a body may have at most {MAX_BODY} bytes", status=413)
                visit.hold(len(part))
                parts.append(part)
    except TimeoutError:
        raise Refused("the body took too long to come", status=408) from None
    body = b"".join(parts)
    if _marks(body) > values and _crowded(body, values):
        raise Refused(f"a body may hold at most {values} values")
    return body


def _crowded(body: bytes, most: int) -> bool:
    """Whether there are more values than `most`; what stands in strings is none."""
    values = end = 0
    for number, string in enumerate(_STRING.finditer(body)):
        values += _marks(body[end : string.start()])
        end = string.end()
        if values > most or number > 2 * most:  # a value is two strings at most: its key and itself
            return True
    return values + _marks(body[end:]) > most


def _marks(text: bytes) -> int:
    """Each begins a value."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")
