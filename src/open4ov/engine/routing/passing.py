"""An answer of a node on its way to the client, given up as soon as the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from open4ov.engine.routing.relay import Lost, Stream, Whole
from open4ov.engine.serving.faults import error, fault


class Passing(Response):
    """The response that `asking` brings, which begins when this is sent. A client that leaves ends it at once.

    `nobody`: what is said when no node could be reached.
    """

    def __init__(self, asking: Coroutine[Any, Any, Whole | Stream], nobody: str = "no node is up; try again") -> None:
        super().__init__()
        self.asking, self.nobody = asking, nobody

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work, left = asyncio.create_task(self._pass(scope, receive, send)), asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, left):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await work

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self.asking
        if isinstance(answer, Stream):
            return await _stream(answer, send)
        if answer.node is not None:
            response: Response = Response(answer.content, answer.status, answer.headers)
        elif answer.status == 502:
            response = error(502, "the nodes failed at this request", "bad_gateway")
        else:
            response = error(503, self.nobody, "no_node", retry=1)
        await response(scope, receive, send)


async def _stream(stream: Stream, send: Send) -> None:
    """Event by event, as they come. One that breaks, or is cut off as the router stops, ends with an error event."""
    headers = [(name.encode(), value.encode()) for name, value in stream.headers.items()]
    try:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while (piece := await stream.next()) is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except Lost as error:
        stream.node.failed(str(error))
        await send(_last("the node that answered was lost", "node_lost"))
    except asyncio.CancelledError:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):  # a client that does not read is not waited for
                await send(_last("the router is going down", "node_lost"))
        raise
    finally:
        await stream.close()


def _last(message: str, code: str) -> dict[str, Any]:
    event = f"data: {json.dumps({'error': fault(message, code)})}\n\n"
    return {"type": "http.response.body", "body": event.encode()}


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
