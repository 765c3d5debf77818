"""A router's end: on SIGTERM or SIGINT nothing new is taken, and what is under way has so many seconds to finish."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from open4ov.engine.serving.body import MAX_BODY
from open4ov.engine.serving.listen import Connection

LAST_SECONDS = 2.0
"""In which a stream that is cut off can say so"""


class Server(uvicorn.Server):
    """uvicorn's raises the signal again when all is done, as if it had been killed. This one's process then ends as
    any other that has done its work, and by the signal only when something was cut off after `drain` seconds."""

    def __init__(self, config: uvicorn.Config, drain: float) -> None:
        super().__init__(config)
        self.drain = drain
        self.cut_off = False
        """Whether something was under way still at the end"""
        self.said = ""
        self.signal: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.said:
            print(self.said, file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = self.cut_off = True
        self.should_exit, self.signal = True, sig

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        timers = [
            loop.call_later(self.drain, self._cut),
            loop.call_later(self.drain + LAST_SECONDS, self._abort),
        ]
        await super().shutdown(sockets)
        for timer in timers:
            timer.cancel()

    def _cut(self) -> None:
        state = self.server_state
        self.cut_off = self.cut_off or bool(state.tasks or state.connections)
        for task in state.tasks:
            task.cancel()

    def _abort(self) -> None:
        for connection in self.server_state.connections:
            connection.transport.abort()


def server(app: FastAPI, host: str, port: int, drain: float) -> Server:
    """The router's server, with the limits that a server's connections have."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Connection,
        log_level="warning",
        ws_max_size=MAX_BODY,
        server_header=False,
    )
    return Server(config, drain)


def run(app: FastAPI, listener: socket.socket, drain: float, said: str = "") -> None:
    """Serves until a signal comes. `drain`: seconds for what is under way then; `said`: on standard error once it
    listens."""
    host, port = listener.getsockname()[:2]
    running = server(app, host, port, drain)
    running.said = said
    running.run([listener])
    if not running.started:
        raise SystemExit(3)  # uvicorn has said why
    if running.cut_off and running.signal is not None:
        signal.raise_signal(running.signal)
