"""The address that a server or a router will listen on, taken before anything is loaded."""

from __future__ import annotations

import socket

from open4ov.errors import UserError


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address (port 0: a free one), which does not listen yet. Raises UserError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UserError(f"--host {host} --port {port}: {error.strerror}; give another one") from None
    return listener


def url(listener: socket.socket) -> str:
    """Where it is."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
