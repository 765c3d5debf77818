"""A WebSocket passed on to a node, both ways, until either side closes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from fastapi import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from open4ov.engine.routing.nodes import Node
from open4ov.engine.routing.relay import BUSY, CONNECT_SECONDS
from open4ov.engine.serving.body import MAX_BODY
from open4ov.engine.serving.faults import error, fault

LOST = (1011, "the node was lost")


class _Connect(connect):
    """Goes where it was told to go, and nowhere else."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def relay(client: WebSocket, order: Sequence[Node], path: str, headers: dict[str, str]) -> Node | None:
    """Opens the client's WebSocket on the first of the nodes that takes it, or refuses it. The node that had it."""
    refused = error(503, "no node is up; try again", "no_node", retry=1)
    offered = [Subprotocol(name) for name in client.scope.get("subprotocols", ())]
    for place, node in enumerate(order):
        node.retries += place > 0
        node.requests += 1
        node.in_flight += 1
        try:
            async with node.unless_it_hangs():
                opened = await _open(node, path, headers, offered)
            async with opened:
                node.answered()
                await _both_ways(client, node, opened)
            return node
        except InvalidStatus as said:
            if said.response.status_code not in BUSY:
                status = said.response.status_code if 400 <= said.response.status_code < 500 else 502
                refused = error(status, "the node does not open this WebSocket", "websocket_refused")
                break
            refused = error(said.response.status_code, "all nodes are busy; try again", "server_overloaded", retry=1)
        except (OSError, TimeoutError, WebSocketException) as fell:
            node.failed("connect", silent=isinstance(fell, TimeoutError))
        finally:
            node.in_flight -= 1
    await client.send_denial_response(refused)
    return None


async def _open(node: Node, path: str, headers: dict[str, str], offered: list[Subprotocol]) -> ClientConnection:
    return await _Connect(
        "ws" + node.url.removeprefix("http") + path,
        additional_headers=headers,
        subprotocols=offered or None,
        compression=None,
        proxy=None,
        open_timeout=CONNECT_SECONDS,
        max_size=MAX_BODY,
        user_agent_header=None,
    )


async def _both_ways(client: WebSocket, node: Node, opened: ClientConnection) -> None:
    """Until one side closes; the other is then closed in the same way, or told that the node was lost."""
    await client.accept(opened.subprotocol)
    up, down = asyncio.create_task(_up(client, opened)), asyncio.create_task(_down(client, node, opened))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _up(client: WebSocket, opened: ClientConnection) -> None:
    try:
        while (message := await client.receive())["type"] == "websocket.receive":
            await opened.send(message["text"] if message.get("text") is not None else message["bytes"])
        await opened.close()
    except ConnectionClosed:
        await asyncio.Event().wait()  # the other way has what the node said last, and ends this one


async def _down(client: WebSocket, node: Node, opened: ClientConnection) -> None:
    try:
        while True:
            async with node.unless_it_hangs():
                message = await opened.recv()
            node.heard()
            await client.send_text(message) if isinstance(message, str) else await client.send_bytes(message)
    except ConnectionClosed as closed:
        if closed.rcvd is not None:
            return await client.close(*_sendable(closed.rcvd.code, closed.rcvd.reason))
    except TimeoutError:
        pass
    node.failed("stream")
    lost: dict[str, Any] = {"error": fault("the node that answered was lost", "node_lost")}
    await client.send_text(json.dumps(lost))
    await client.close(*LOST)


def _sendable(code: int, reason: str) -> tuple[int, str]:
    """Codes that stand for a missing one may not be sent."""
    return (1000, "") if code in (1004, 1005, 1006, 1015) else (code, reason)
