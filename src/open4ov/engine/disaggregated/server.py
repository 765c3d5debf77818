"""A stage as a process of its own: it listens, and answers one message after another on every connection.

Who does not know the secret gets no further than two random numbers. A message that is refused costs its connection; a
request that is at fault gets an error, and the stage lives on.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from open4ov.engine.disaggregated.shared import host
from open4ov.engine.disaggregated.stages import digest_of
from open4ov.engine.disaggregated.threads import Encode, Prefill
from open4ov.engine.disaggregated.transport import Address, Channel, Spec, TransportError, WrongKey
from open4ov.engine.disaggregated.wire import (
    check_features,
    check_pictures,
    hear_features,
    hear_messages,
    hear_visuals,
    image_from,
    say_features,
)
from open4ov.engine.request import Request
from open4ov.engine.stage_error import StageError
from open4ov.engine.vision_cache import visual_hash

log = logging.getLogger(__name__)
MAX_CONNECTIONS = 256
MAX_STRANGERS = 32
"""Connections that have not yet shown the secret; another one ends the oldest of them"""
IDLE = 900.0
"""Seconds after which a connection that says nothing is closed"""

Answer = tuple[dict[str, Any], Sequence[Tensor]]


class Handler(Protocol):
    kind: str

    def fingerprint(self) -> str:
        """Of the stage's weights."""
        ...

    def check(self, say: dict[str, Any], specs: list[Spec]) -> None:
        """Looks at a message before its tensors are read. Raises ValueError."""
        ...

    def handle(self, say: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Raises StageError, and ValueError for a message that is at fault."""
        ...

    def load(self) -> dict[str, float]:
        """How busy the stage is; it goes with every answer."""
        ...


class EncodeHandler:
    """In: `layout` and the pictures' pixels; out: their features, and the digests of what was encoded."""

    kind = "encode"

    def __init__(self, stage: Encode) -> None:
        self.stage, self.load = stage, stage.load

    def fingerprint(self) -> str:
        return self.stage.fingerprint.now()

    def check(self, say: dict[str, Any], specs: list[Spec]) -> None:
        check_pictures(specs)

    def handle(self, say: dict[str, Any], tensors: list[Tensor]) -> Answer:
        seen = hear_visuals(say["layout"], tensors)
        found = self.stage.encode(seen, _word(say["fingerprint"]), _word(say["salt"]))
        return {"batch": found.batch, "digests": [visual_hash(one) for one in seen]}, say_features(found.each)


class PrefillHandler:
    """In: `messages`, `images` pictures and after them features of all visuals, or none; `start` and the `prompt`'s
    digest; `ahead` as in `Request`. Out: keys and values from `start` to the `end` of the prompt."""

    kind = "prefill"

    def __init__(self, stage: Prefill) -> None:
        self.stage, self.load = stage, stage.load

    def fingerprint(self) -> str:
        return self.stage.fingerprint.now()

    def check(self, say: dict[str, Any], specs: list[Spec]) -> None:
        cache, images = self.stage.engine.vision_cache, say["images"]
        if type(images) is not int or not 0 <= images <= len(specs):
            raise ValueError("pictures of another number")
        layers, _, width = cache.shape((1, 2, 2))
        check_pictures(specs[:images])
        check_features(specs[images:], cache.dtype, layers, width)

    def handle(self, say: dict[str, Any], tensors: list[Tensor]) -> Answer:
        images, start, ahead = say["images"], say["start"], say["ahead"]
        pictures, salt = [image_from(one) for one in tensors[:images]], _word(say["salt"])
        if type(ahead) is not int:
            raise ValueError("a number of tokens is expected")
        request = Request(hear_messages(say["messages"]), pictures, max_tokens=1, salt=salt, ahead=ahead)
        prompt = self.stage.engine.prompt(request)
        if digest_of(prompt) != say["prompt"]:
            raise StageError("refused", "the prompt reads otherwise here: another tokenizer or other pictures")
        if type(start) is not int or not 0 <= start < len(prompt.token_ids):
            raise ValueError("a range beyond the prompt")
        features = hear_features(tensors[images:]) if say["features"] else None
        found = self.stage.compute(prompt, features, start, _word(say["fingerprint"]))
        head = {"batch": found.batch, "start": start, "end": len(prompt.token_ids), "prompt": digest_of(prompt)}
        return head, [found.keys, found.values]


class StageServer:
    """Listens at `address` (port 0: a free one) and answers in threads. `limit`: bytes of a message's tensors."""

    def __init__(self, handler: Handler, secret: bytes, address: Address, limit: int = 2**30) -> None:
        self.handler, self.secret, self.limit = handler, secret, limit
        self._host = host()
        self._listener = socket.create_server(address, family=_family(address), backlog=128)
        self.address: Address = self._listener.getsockname()[:2]
        self._open: set[socket.socket] = set()
        self._strangers: dict[socket.socket, None] = {}
        self._lock, self._stopped = threading.Lock(), False
        self._thread = threading.Thread(target=self._listen, name="stage server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes all connections."""
        self._stopped = True
        with self._lock:
            for connection in (self._listener, *self._open):
                _shut(connection)
        self._listener.close()
        self._thread.join()

    def _listen(self) -> None:
        while not self._stopped:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._stopped:
                    return
                continue
            with self._lock:
                if len(self._open) - len(self._strangers) >= MAX_CONNECTIONS or self._stopped:
                    connection.close()
                    continue
                if len(self._strangers) >= MAX_STRANGERS:
                    oldest = next(iter(self._strangers))
                    del self._strangers[oldest]
                    _shut(oldest)
                self._open.add(connection)
                self._strangers[connection] = None
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            channel = Channel.accept(connection, self.secret)
            with self._lock:
                self._strangers.pop(connection, None)
            try:
                self._greet(channel)
                while not self._stopped:
                    say, tensors = channel.receive(self.handler.check, self.limit, idle=IDLE)
                    head, answer = self._answer(say, tensors)
                    channel.send({**head, "load": self.handler.load()}, answer)
            finally:
                channel.close()
        except WrongKey:
            log.warning("somebody with another secret was turned away")
        except TransportError as error:
            log.info("a connection has ended: %s", error)
        except Exception:
            log.exception("a connection failed")
        finally:
            with self._lock:
                self._open.discard(connection)
                self._strangers.pop(connection, None)
            connection.close()

    def _greet(self, channel: Channel) -> None:
        """Each says who it is, the stage of what weights, and whether both can share memory."""
        say, _ = channel.receive(limit=0)
        share = self._host is not None and say.get("host") == self._host
        channel.send({"kind": self.handler.kind, "share": share, "fingerprint": self.handler.fingerprint()})
        channel.share = share

    def _answer(self, say: dict[str, Any], tensors: list[Tensor]) -> Answer:
        try:
            return self.handler.handle(say, tensors)
        except StageError as error:
            return {"error": error.reason, "message": str(error)}, ()
        except (ValueError, TypeError, KeyError) as error:
            log.warning("a request was refused: %s", error)
            return {"error": "refused", "message": "the stage cannot read the request"}, ()
        except Exception:
            log.exception("a request failed")
            return {"error": "failed", "message": "the stage made an error"}, ()


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a word is expected")
    return value


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        connection.close()
