"""Messages between stages: what arrives, and everything that must not."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from open4ov.engine.disaggregated import transport
from open4ov.engine.disaggregated.shared import FOLDER, Reader, Segment, host, sweep
from open4ov.engine.disaggregated.transport import Channel, TransportError, WrongKey

SECRET = b"a secret of these tests"


def pair(theirs: bytes = SECRET) -> tuple[Channel, Channel]:
    """Both ends of a real connection; `theirs`: the secret of the side that listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[Channel | Exception] = []

    def accept() -> None:
        connection, _ = listener.accept()
        try:
            accepted.append(Channel.accept(connection, theirs))
        except Exception as error:
            accepted.append(error)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        client = Channel.connect(listener.getsockname()[:2], SECRET)
    finally:
        thread.join(10)
        listener.close()
    assert isinstance(accepted[0], Channel)
    return client, accepted[0]


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    client, server = pair()
    yield client, server
    client.close()
    server.close()


TENSORS = [
    torch.randn(3, 5),
    torch.randn(2, 70, 300).to(torch.bfloat16),
    torch.arange(200, dtype=torch.uint8).reshape(5, 40)[:, 1:],
    torch.zeros(0, 4),
]


@pytest.mark.parametrize("share", [False, True])
def test_tensors_arrive_as_they_were(ends: tuple[Channel, Channel], share: bool) -> None:
    client, server = ends
    client.share = server.share = share
    for turn in range(3):
        client.send({"turn": turn, "word": "油"}, TENSORS)
        say, found = server.receive()
        assert say == {"turn": turn, "word": "油"}
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(TENSORS, found, strict=True))
        server.send({"thanks": turn})
        assert client.receive() == ({"thanks": turn}, [])
    size = 3 * sum(x.nbytes for x in TENSORS)
    assert (client.traffic.shared_sent, server.traffic.shared_received) == ((size, size) if share else (0, 0))
    assert (client.traffic.sent, server.traffic.received) == ((0, 0) if share else (size, size))


def test_another_secret_gets_nowhere_on_either_side() -> None:
    with pytest.raises(WrongKey):
        pair(b"another secret altogether")


def test_what_listens_must_prove_itself_too() -> None:
    """Somebody who answers the greeting without the secret is not believed."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pretend() -> None:
        connection, _ = listener.accept()
        connection.sendall(b"open4ov stage 1\n" + bytes(32))
        connection.recv(64)
        connection.sendall(bytes(32))

    thread = threading.Thread(target=pretend)
    thread.start()
    with pytest.raises(WrongKey, match="does not know our secret"):
        Channel.connect(listener.getsockname()[:2], SECRET)
    thread.join()
    listener.close()


@contextmanager
def tampered(client: Channel, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """What `client` sends is changed on the way."""
    real = client.connection

    class Middle:
        def sendall(self, data: bytes) -> None:
            real.sendall(change(bytes(data)))

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    client.connection = Middle()  # type: ignore[assignment]
    yield
    client.connection = real


def flip(place: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] if len(data) > place else data

    return change


@pytest.mark.parametrize("place", [10, 60, -1])
def test_a_head_that_was_changed_is_refused(ends: tuple[Channel, Channel], place: int) -> None:
    client, server = ends
    with tampered(client, lambda data: flip(place % len(data))(data) if data[4:6] == b'{"' else data):
        client.send({"word": "x" * 40})
    with pytest.raises(TransportError, match="not authentic"):
        server.receive(timeout=5)
    with pytest.raises(TransportError):
        server.receive()  # it is closed


def test_a_tensor_that_was_changed_is_refused(ends: tuple[Channel, Channel]) -> None:
    client, server = ends
    with tampered(client, lambda data: data if data[4:6] == b'{"' else flip(7)(data)):
        client.send({}, [torch.randn(50)])
    with pytest.raises(TransportError, match="not what its sender has hashed"):
        server.receive()


def test_shared_memory_that_was_changed_is_refused(ends: tuple[Channel, Channel]) -> None:
    client, server = ends
    client.share = server.share = True
    client.send({}, [torch.randn(200, 200)])
    (segment,) = FOLDER.glob(f"open4ov-{os.getpid()}-*")
    with segment.open("r+b") as file:
        file.seek(1000)
        file.write(b"\x55\xaa\x55")
    with pytest.raises(TransportError, match="not what its sender has hashed"):
        server.receive()


def test_a_message_said_again_or_left_out_is_refused() -> None:
    client, server = pair()
    said: list[bytes] = []
    with tampered(client, lambda data: said.append(data) or data):
        client.send({"pay": 1})
    assert server.receive()[0] == {"pay": 1}
    client.connection.sendall(said[0])
    with pytest.raises(TransportError, match="not the next one"):
        server.receive()
    client, server = pair()
    with tampered(client, lambda data: b""):
        client.send({"first": 1})
    client.send({"second": 1})
    with pytest.raises(TransportError, match="not the next one"):
        server.receive()


def test_a_message_of_another_connection_is_refused() -> None:
    client, _ = pair()
    said: list[bytes] = []
    with tampered(client, lambda data: said.append(data) or data):
        client.send({"pay": 1})
    other, server = pair()
    other.connection.sendall(said[0])
    with pytest.raises(TransportError, match="not authentic"):
        server.receive()


def send_raw(client: Channel, head: bytes) -> None:
    """A head that is signed rightly, whatever it says."""
    mac = transport._mac(client._keys[0], transport._order(client._sent), head)
    client.connection.sendall(len(head).to_bytes(4) + head + mac)


@pytest.mark.parametrize(
    "head",
    [
        b"no json",
        b"[]",
        b'{"say": {}}',
        b'{"say": [], "tensors": []}',
        b'{"say": {}, "tensors": [["float32", [1099511627776], "", null, 0]]}',
        b'{"say": {}, "tensors": [["float32", [-1], "", null, 0]]}',
        b'{"say": {}, "tensors": [["float32", [1, 1, 1, 1, 1, 1, 1], "", null, 0]]}',
        b'{"say": {}, "tensors": [["float32", [true], "", null, 0]]}',
        b'{"say": {}, "tensors": [["float32", [1.5], "", null, 0]]}',
        b'{"say": {}, "tensors": [["object", [1], "", null, 0]]}',
        b'{"say": {}, "tensors": [["float32", [1], 7, null, 0]]}',
        b'{"say": {}, "tensors": [["float32", [1048576, 1048576], "", null, 0]]}',
        b'{"say": {}, "tensors": [["float32", [4], "", "open4ov-1-00000000000000000000000000000000", 0]]}',
        b"[" * 100_000,
        json.dumps({"say": {}, "tensors": [["uint8", [0], "", None, 0]] * 5000}).encode(),
    ],
)
def test_heads_that_are_none(ends: tuple[Channel, Channel], head: bytes) -> None:
    """Refused before memory is taken for what they promise."""
    client, server = ends
    send_raw(client, head)
    with pytest.raises(TransportError):
        server.receive(timeout=5)


def test_an_oversize_head_is_not_read(ends: tuple[Channel, Channel]) -> None:
    client, server = ends
    client.connection.sendall((transport.MAX_HEAD + 1).to_bytes(4))
    with pytest.raises(TransportError, match="above the limit"):
        server.receive(timeout=5)


def test_tensors_above_the_readers_limit(ends: tuple[Channel, Channel]) -> None:
    client, server = ends
    client.send({}, [torch.zeros(1000)])
    with pytest.raises(TransportError, match="above the limit"):
        server.receive(limit=3999)


def test_a_side_that_says_nothing_or_stops_in_the_middle(ends: tuple[Channel, Channel]) -> None:
    client, server = ends
    with pytest.raises(TransportError, match="TimeoutError"):
        server.receive(idle=0.2)
    client, server = pair()
    client.connection.sendall(b"\0\0\0\x40{")
    with pytest.raises(TransportError, match="TimeoutError"):
        server.receive(timeout=0.2)
    client, server = pair()
    client.connection.sendall(b"\0\0\0\x40{")
    client.close()
    with pytest.raises(TransportError):
        server.receive()


@pytest.mark.parametrize("name", ["../etc/passwd", "open4ov-1", "x" * 40, "open4ov-1-" + "0" * 32])
def test_names_that_are_no_segment(name: str) -> None:
    with pytest.raises(ValueError, match="segment"):
        Reader().read(name, 0, memoryview(bytearray(4)))


def test_ranges_of_a_segment() -> None:
    segment, reader = Segment(), Reader()
    name, places = segment.write([memoryview(b"abcd"), memoryview(b"efgh")])
    found = bytearray(4)
    reader.read(name, places[1], memoryview(found))
    assert bytes(found) == b"efgh"
    for place in (-1, 2**30):
        with pytest.raises(ValueError, match="a range beyond"):
            reader.read(name, place, memoryview(found))
    reader.close()
    segment.close()
    assert not (FOLDER / name).exists()


def test_what_a_dead_owner_left_is_swept() -> None:
    path = FOLDER / f"open4ov-{2**22 + 1}-{'0' * 32}"
    path.write_bytes(b"x")
    sweep(2**22 + 1)
    assert not path.exists()
    assert host() == host() is not None
