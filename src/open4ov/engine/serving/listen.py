"""Connections of the server, and its end: clients that are slow to send or to read are let go, and on SIGTERM or SIGINT
nothing new is taken while what is under way finishes.

Durations are by the event loop's clock, which does not jump when the wall clock does.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from open4ov.engine.serving.body import MAX_BODY
from open4ov.engine.serving.faults import fault
from open4ov.engine.serving.gate import Gate

CONNECTIONS = 2000
"""At a time; more are closed at once"""
HEAD_SECONDS = 20.0
"""In which a request's line and headers must have come"""
STALLED_SECONDS = 60.0
"""A client that reads nothing for so long is let go"""
DRAIN_SECONDS = 60.0


class Connection(H11Protocol):
    """uvicorn's, with time limits."""

    head_seconds, stalled_seconds, most = HEAD_SECONDS, STALLED_SECONDS, CONNECTIONS
    _head: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # answered before all was read: the rest has an end, too
            self.loop.call_later(self.head_seconds, self._give_up, self.cycle)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.stalled_seconds, self.transport.abort)  # closing waits for what was not read

    def send_400_response(self, msg: str) -> None:
        """For what is not HTTP, or has too many headers."""
        content = json.dumps({"error": fault("not a valid HTTP request", "bad_request")}).encode()
        headers = [("content-type", "application/json"), ("connection", "close"), ("content-length", str(len(content)))]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _expect_head(self) -> None:
        """A timer runs while a request has not come with all its headers."""
        waits = self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE
        if waits and self._head is None:
            self._head = self.loop.call_later(self.head_seconds, self.transport.abort)
        elif not waits and self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self, cycle: object) -> None:
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()


class Server(uvicorn.Server):
    """A first SIGTERM or SIGINT lets what is under way finish, for `drain_seconds` at most; a second one does not."""

    def __init__(self, config: uvicorn.Config, gate: Gate, drain_seconds: float = DRAIN_SECONDS) -> None:
        super().__init__(config)
        self.gate, self.drain_seconds = gate, drain_seconds
        self._end: float | None = None
        self.said = ""
        """What is said on standard error once it listens"""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._end is None:
            self.gate.ending = True
            self._end = time.monotonic() + self.drain_seconds
        else:
            self.should_exit = True
            super().handle_exit(signal.SIGINT, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.said:
            print(self.said, file=sys.stderr, flush=True)

    async def on_tick(self, counter: int) -> bool:
        if self._end is not None and (not self.gate.under_way or time.monotonic() > self._end):
            self.should_exit = True
        return await super().on_tick(counter)


def server(app: FastAPI, host: str, port: int, drain_seconds: float = DRAIN_SECONDS, **options: Any) -> Server:
    """The server of `create_app`'s application; `run` it."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Connection,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=5,
        ws_max_size=MAX_BODY,
        **options,
    )
    return Server(config, app.state.gate, drain_seconds)
