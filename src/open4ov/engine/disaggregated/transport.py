"""Messages between stages: a head in JSON and raw tensors, on a connection where both sides have proved themselves.

Neither side sends the secret. Each proves it by an HMAC over two fresh random numbers, from which the keys of this
connection are made, one for each direction. Every head carries an HMAC over its place in the order of messages, so one
that is repeated, left out or of another connection is refused; it holds the SHA-256 of every tensor, so what was
altered on the way is refused too. Nothing is unpickled. Nothing is encrypted: over a network that others read, use a
tunnel.

On the wire: length of the head (4 bytes, big endian), the head, its HMAC (32 bytes), and the tensors' bytes unless they
lie in shared memory (`shared.py`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from open4ov.engine.disaggregated.shared import Reader, Segment

MAX_HEAD = 16 * 2**20
"""Bytes of a head"""
MAX_BODY = 4 * 2**30
"""Bytes of a message's tensors, if its reader sets no other limit"""
MAX_TENSORS = 4096
HANDSHAKE = 10.0
"""Seconds for both sides to show their secret"""
_MAGIC = b"open4ov stage 1\n"
_SMALL = 2**16
"""Below so many bytes shared memory is not worth it."""
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.uint8)
}

Address = tuple[str, int]


class TransportError(Exception):
    """The connection is of no use any more. The message never holds what the other side has sent."""


class WrongKey(TransportError):
    """The other side has another secret, or none."""


@dataclass(frozen=True)
class Spec:
    """What a head says of a tensor, before any memory is taken for it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    sha256: str
    segment: str | None
    place: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


Check = Callable[[dict[str, Any], list[Spec]], None]
"""Looks at a head; raises ValueError for one that must not be read on"""


@dataclass
class Traffic:
    """Bytes of tensors: over the connection, and through shared memory."""

    sent: int = 0
    received: int = 0
    shared_sent: int = 0
    shared_received: int = 0


class Channel:
    """One end of a connection; messages go to and fro in turns. Any failure closes it."""

    def __init__(self, connection: socket.socket, mine: bytes, theirs: bytes) -> None:
        self.connection, self.traffic = connection, Traffic()
        self.share = False
        """Whether tensors go through shared memory. Both sides must have agreed (`shared.host`)."""
        self._keys, self._sent, self._received = (mine, theirs), 0, 0
        self._segment, self._reader = Segment(), Reader()

    @staticmethod
    def connect(address: Address, secret: bytes, timeout: float = HANDSHAKE) -> Channel:
        """Raises OSError when nobody listens there, WrongKey, and TransportError for what is not a stage."""
        connection = socket.create_connection(address, timeout)
        try:
            end = time.monotonic() + timeout
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            greeting = _read(connection, len(_MAGIC) + 32, end)
            if not greeting.startswith(_MAGIC):
                raise TransportError("what listens there is not a stage of this version")
            nonces = greeting[len(_MAGIC) :] + secrets.token_bytes(32)
            connection.sendall(nonces[32:] + _mac(secret, b"client", nonces))
            try:
                proof = _read(connection, 32, end)
            except (TransportError, ConnectionError):
                raise WrongKey("the stage does not let us in: another secret") from None
            if not hmac.compare_digest(proof, _mac(secret, b"server", nonces)):
                raise WrongKey("what listens there does not know our secret")
            return Channel(connection, _mac(secret, b"to server", nonces), _mac(secret, b"to client", nonces))
        except OSError as error:
            connection.close()
            raise TransportError(f"no handshake: {type(error).__name__}") from None
        except BaseException:
            connection.close()
            raise

    @staticmethod
    def accept(connection: socket.socket, secret: bytes, timeout: float = HANDSHAKE) -> Channel:
        """The other end of `connect`. Raises WrongKey and TransportError; the connection is closed then."""
        try:
            end = time.monotonic() + timeout
            connection.settimeout(timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            nonce = secrets.token_bytes(32)
            connection.sendall(_MAGIC + nonce)
            answer = _read(connection, 64, end)
            nonces = nonce + answer[:32]
            if not hmac.compare_digest(answer[32:], _mac(secret, b"client", nonces)):
                raise WrongKey("somebody with another secret")
            connection.sendall(_mac(secret, b"server", nonces))
            return Channel(connection, _mac(secret, b"to client", nonces), _mac(secret, b"to server", nonces))
        except OSError as error:
            connection.close()
            raise TransportError(f"no handshake: {type(error).__name__}") from None
        except BaseException:
            connection.close()
            raise

    def send(self, say: dict[str, Any], tensors: Sequence[Tensor] = (), timeout: float = 60.0) -> None:
        """One message. Raises TransportError."""
        parts = [_bytes_of(tensor) for tensor in tensors]
        size = sum(map(len, parts))
        shared = self.share and size >= _SMALL
        try:
            name, places = self._segment.write(parts) if shared else (None, [0] * len(parts))
            specs = [
                [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), _sha256(part), name, place]
                for tensor, part, place in zip(tensors, parts, places, strict=True)
            ]
            head = json.dumps({"say": say, "tensors": specs}).encode()
            if len(head) > MAX_HEAD:
                raise TransportError(f"a head of {len(head)} bytes is above the {MAX_HEAD} that may be sent")
            self.connection.settimeout(timeout)
            self.connection.sendall(len(head).to_bytes(4) + head + _mac(self._keys[0], _order(self._sent), head))
            for part in () if shared else parts:
                self.connection.sendall(part)
        except OSError as error:
            self.close()
            raise TransportError(f"the connection broke: {type(error).__name__}") from None
        except BaseException:
            self.close()
            raise
        self._sent += 1
        self.traffic.shared_sent += size if shared else 0
        self.traffic.sent += 0 if shared else size

    def receive(
        self, check: Check | None = None, limit: int = MAX_BODY, idle: float = 60.0, timeout: float = 60.0
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """The next message. `idle`: seconds until it begins, `timeout`: until all of it is there.

        Raises TransportError for anything but a message that is authentic, next in order, within the limits, passed by
        `check` and complete.
        """
        try:
            length = int.from_bytes(_read(self.connection, 4, time.monotonic() + idle))
            end = time.monotonic() + timeout
            if length > MAX_HEAD:
                raise TransportError("a head above the limit")
            head, mac = _read(self.connection, length, end), _read(self.connection, 32, end)
            if not hmac.compare_digest(mac, _mac(self._keys[1], _order(self._received), head)):
                raise TransportError("a message that is not authentic, or not the next one")
            say, specs = _parsed(head)
            if sum(spec.nbytes for spec in specs) > limit:
                raise TransportError("tensors above the limit")
            if check is not None:
                check(say, specs)
            tensors = [self._tensor(spec, end) for spec in specs]
        except OSError as error:
            self.close()
            raise TransportError(f"the connection broke: {type(error).__name__}") from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self.close()
            raise TransportError(f"a message that was refused: {error}") from None
        except BaseException:
            self.close()
            raise
        self._received += 1
        return say, tensors

    def alive(self) -> bool:
        """Whether the other side has not closed an idle connection."""
        try:
            self.connection.setblocking(False)
            self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False  # closed, or it speaks out of turn

    def close(self) -> None:
        self.connection.close()
        self._segment.close()
        self._reader.close()

    def _tensor(self, spec: Spec, end: float) -> Tensor:
        """Our own copy of a tensor, after a look at its SHA-256."""
        content = torch.empty(spec.nbytes, dtype=torch.uint8)
        view = content.numpy().data
        if spec.segment is None:
            _fill(self.connection, view, end)
            self.traffic.received += spec.nbytes
        elif not self.share:
            raise ValueError("shared memory was not agreed on")
        else:
            self._reader.read(spec.segment, spec.place, view)
            self.traffic.shared_received += spec.nbytes
        if not hmac.compare_digest(_sha256(view), spec.sha256):
            raise ValueError("a tensor is not what its sender has hashed")
        return content.view(spec.dtype).reshape(spec.shape)


def _parsed(head: bytes) -> tuple[dict[str, Any], list[Spec]]:
    content = json.loads(head)
    say, listed = content["say"], content["tensors"]
    if not isinstance(say, dict) or not isinstance(listed, list) or len(listed) > MAX_TENSORS:
        raise ValueError("a head of another form")
    specs: list[Spec] = []
    for dtype, shape, sha256, segment, place in listed:
        if not isinstance(shape, list) or len(shape) > 6 or not all(_whole(side) for side in shape):
            raise ValueError("a shape out of range")
        if not isinstance(sha256, str) or not (segment is None or isinstance(segment, str)) or not _whole(place):
            raise ValueError("a head of another form")
        if dtype not in _DTYPES:
            raise ValueError("a type of numbers that is not sent")
        specs.append(Spec(_DTYPES[dtype], tuple(shape), sha256, segment, place))
    return say, specs


def _whole(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**40


def _order(number: int) -> bytes:
    return number.to_bytes(8)


def _mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(parts), "sha256")


def _sha256(content: memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _read(connection: socket.socket, count: int, end: float) -> bytes:
    content = bytearray(count)
    _fill(connection, memoryview(content), end)
    return bytes(content)


def _fill(connection: socket.socket, view: memoryview, end: float) -> None:
    done = 0
    while done < len(view):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        count = connection.recv_into(view[done:])
        if not count:
            raise TransportError("the other side has closed the connection")
        done += count
