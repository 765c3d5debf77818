"""A router's end: on SIGTERM or SIGINT nothing new is taken, and what is under way has so many seconds to finish."""

from __future__ import annotations

import asyncio
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from open4ov.engine.serving.body import MAX_BODY


class Server(uvicorn.Server):
    """uvicorn's raises the signal again when all is done, as if it had been killed. This one's process then ends as
    any other that has done its work, and by the signal only when something was cut off after `drain` seconds."""

    def __init__(self, config: uvicorn.Config, drain: float) -> None:
        super().__init__(config)
        self.drain = drain
        self.cut_off = False
        """Whether something was under way still at the end"""
        self.signal: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = self.cut_off = True
        self.should_exit, self.signal = True, sig

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self.drain, self._cut)
        await super().shutdown(sockets)
        timer.cancel()

    def _cut(self) -> None:
        state = self.server_state
        self.cut_off = self.cut_off or bool(state.tasks or state.connections)
        for task in state.tasks:
            task.cancel()
        for connection in state.connections:
            connection.transport.abort()


def run(app: FastAPI, host: str, port: int, drain: float) -> None:
    """Serves until a signal comes. `drain`: seconds for what is under way then."""
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", ws_max_size=MAX_BODY, server_header=False)
    server = Server(config, drain)
    server.run()
    if not server.started:
        raise SystemExit(3)  # uvicorn has said why
    if server.cut_off and server.signal is not None:
        signal.raise_signal(server.signal)
