"""Encode, prefill and decode: the same answers in every layout, nothing computed twice, and stages that fail or lie."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_generate import mixed_requests, picture

from open4ov.engine import Completion, Engine, Request
from open4ov.engine.disaggregated.client import CallPolicy, RemoteEncode, RemotePrefill, parse_addresses
from open4ov.engine.disaggregated.decode import Decode, DecodePolicy
from open4ov.engine.disaggregated.metrics import StageMetrics
from open4ov.engine.disaggregated.run import StageOptions, stages_of
from open4ov.engine.disaggregated.server import EncodeHandler, PrefillHandler, StageServer
from open4ov.engine.disaggregated.stages import EncodePolicy, Keys, PrefillPolicy, digest_of
from open4ov.engine.disaggregated.threads import Encode, Prefill
from open4ov.engine.disaggregated.transport import Channel, TransportError
from open4ov.engine.disaggregated.wire import say_messages
from open4ov.engine.disaggregated.workers import Workers
from open4ov.engine.service import Service
from open4ov.engine.stage_error import StageError
from open4ov.engine.vision_cache import VisionCache
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import user, video

SECRET = b"a secret of these tests"
LONG = "What colour is the circle? How many squares are there? "


def model(directory: Path) -> tuple[Qwen3VL, Processor]:
    return Qwen3VL.from_pretrained(directory).requires_grad_(False), Processor.from_pretrained(directory)


def requests() -> list[Request]:
    """One picture, several, a video, none; greedy and sampled; n above 1; a prompt of several chunks."""
    asked = [replace(one, temperature=0.9 * (place % 2)) for place, one in enumerate(mixed_requests())]
    frames = [picture(70 + frame, (64, 64)) for frame in range(4)]
    return [
        *asked,
        Request([user(LONG * 6, 2)], [picture(80), picture(81, (96, 96))], max_tokens=7, n=3, temperature=1.0, seed=5),
        Request([video("What happens?" + LONG, [0.0, 0.5, 1.0, 1.5])], frames, max_tokens=6),
    ]


def answers(service: Service, asked: list[Request]) -> list[list[Completion] | Exception]:
    """All at once."""

    async def one(request: Request) -> list[Completion]:
        found: dict[int, Completion] = {}
        async for update in service.submit(request):
            if update.completion is not None:
                found[update.index] = update.completion
        return [found[index] for index in sorted(found)]

    async def every() -> list[Any]:
        return await asyncio.gather(*map(one, asked), return_exceptions=True)

    return asyncio.run(every())


def tokens(found: list[list[Completion] | Exception]) -> list[list[list[int]]]:
    return [[one.token_ids for one in each] for each in found if not isinstance(each, Exception)]


@pytest.fixture(scope="module")
def expected(tiny_dir: Path) -> list[list[list[int]]]:
    return [[one.token_ids for one in each] for each in Engine(*model(tiny_dir)).generate(requests())]


class Layout:
    """A decode engine and its stages, in this process: as objects, or behind TCP or shared memory."""

    def __init__(self, directory: Path, way: str, policy: DecodePolicy | None = None, **engine: Any) -> None:
        self.closing = ExitStack()
        self.engine = Engine(*model(directory), watch=False, **engine)
        self.metrics = StageMetrics()
        self.encode = Encode(VisionCache(*model(directory), watch=False), EncodePolicy(4, 0.01))
        self.prefill = Prefill(*model(directory), PrefillPolicy(chunk=40, rows=4), watch=False)
        encoder: Any = self.encode
        prefiller: Any = self.prefill
        if way != "objects":
            servers = [
                StageServer(handler, SECRET, ("127.0.0.1", 0))
                for handler in (EncodeHandler(self.encode), PrefillHandler(self.prefill))
            ]
            self.servers = servers
            options = {"policy": CallPolicy(timeout=60), "share": way == "shared memory"}
            encoder = RemoteEncode(self.engine, lambda: [servers[0].address], SECRET, self.metrics, **options)
            prefiller = RemotePrefill(self.engine, lambda: [servers[1].address], SECRET, self.metrics, **options)
            for one in (*servers, encoder, prefiller):
                self.closing.callback(one.stop if isinstance(one, StageServer) else one.close)
        self.decode = Decode(self.engine, encoder, prefiller, policy, self.metrics)
        self.service = Service(self.engine, decode=self.decode)
        for stop in (self.encode.stop, self.prefill.stop, self.decode.close, self.service.stop):
            self.closing.callback(stop)

    def __enter__(self) -> Layout:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.close()


@pytest.mark.parametrize("way", ["objects", "tcp", "shared memory"])
def test_the_answers_are_the_same_and_nothing_is_computed_twice(
    tiny_dir: Path, way: str, expected: list[list[list[int]]]
) -> None:
    with Layout(tiny_dir, way) as layout:
        assert tokens(answers(layout.service, requests())) == expected
        engine, metrics = layout.engine, layout.metrics
        assert engine.vision_cache.statistics.misses == 0, "the decode stage encodes no picture"
        assert layout.encode.cache.statistics.misses > 0
        assert layout.prefill.engine.vision_cache.statistics.misses == 0, "nor does the prefill stage"
        assert metrics.value("stage_fallbacks") == 0
        asked = metrics.value("stage_requests", stage="prefill")
        assert asked == metrics.value("stage_answers", stage="prefill") > 5
        assert engine.pool.available == engine.pool.count
        moved = {key: metrics.value("stage_bytes", way=key) for key in ("tcp", "shared")}
        assert (moved["tcp"] > 0) == (way == "tcp") or way == "shared memory"  # what is small goes over TCP
        assert (moved["shared"] > 0) == (way == "shared memory")


@pytest.mark.parametrize("way", ["objects", "tcp"])
def test_who_has_another_salt_finds_nothing_in_a_stage(tiny_dir: Path, way: str) -> None:
    asked = Request([user(LONG * 3, 1)], [picture(1)], max_tokens=4)
    with Layout(tiny_dir, way) as layout:
        found = [tokens(answers(layout.service, [replace(asked, salt=salt)])) for salt in ("one", "other", "one")]
        assert found[0] == found[1] == found[2]
        assert layout.encode.cache.statistics.misses == 2
        assert layout.prefill.engine.scheduler.found_tokens == 0, "the third one was not asked for at all"
        assert layout.metrics.value("stage_requests", stage="prefill") == 2


def test_a_prompt_that_was_shipped_is_computed_but_for_its_last_token(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Layout(tiny_dir, "tcp") as layout:
        seen: list[int] = []
        forward = layout.engine.model.hidden_states

        def counted(packed: Any, *rest: Any) -> torch.Tensor:
            seen.append(len(packed.input_ids))
            return forward(packed, *rest)

        monkeypatch.setattr(layout.engine.model, "hidden_states", counted)
        (found,) = tokens(answers(layout.service, [Request([user(LONG * 3, 1)], [picture(1)], max_tokens=4)]))
        assert seen == [1] * len(found[0])


@pytest.mark.parametrize("what", ["keys", "features"])
def test_what_is_shipped_is_what_is_used(tiny_dir: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other numbers in a right envelope change the answer: so the receiver does not compute them itself."""
    asked = Request([user(LONG * 3, 1)], [picture(1)], max_tokens=8, top_log_probs=1)
    right = Engine(*model(tiny_dir)).generate([asked])[0][0]
    with Layout(tiny_dir, "objects") as layout:
        if what == "keys":
            compute = layout.prefill.compute

            def wrong(*args: Any) -> Keys:
                found = compute(*args)
                return replace(found, values=found.values * -3)

            monkeypatch.setattr(layout.prefill, "compute", wrong)
        else:
            of = layout.encode.cache.of
            monkeypatch.setattr(
                layout.encode.cache, "of", lambda *args: [replace(one, merged=one.merged * -3) for one in of(*args)]
            )
        (found,) = answers(layout.service, [asked])
        assert not isinstance(found, Exception)
        assert found[0].log_probs[0] != pytest.approx(right.log_probs[0], abs=1e-4)


LIES: dict[str, Callable[[Keys], Keys]] = {
    "fewer tokens": lambda keys: replace(keys, keys=keys.keys[:, 1:], values=keys.values[:, 1:]),
    "another type": lambda keys: replace(keys, keys=keys.keys.half(), values=keys.values.half()),
    "more heads": lambda keys: replace(keys, keys=torch.cat([keys.keys] * 2, 2), values=keys.values),
}


@pytest.mark.parametrize("way", ["objects", "tcp"])
@pytest.mark.parametrize("lie", LIES)
def test_keys_that_do_not_fit_are_refused_and_computed_here(
    tiny_dir: Path, lie: str, way: str, expected: list[list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Layout(tiny_dir, way) as layout:
        compute = layout.prefill.compute
        monkeypatch.setattr(layout.prefill, "compute", lambda *args: LIES[lie](compute(*args)))
        assert tokens(answers(layout.service, requests())) == expected
        assert layout.metrics.value("stage_fallbacks", stage="prefill") > 0


def test_digests_of_other_pictures_are_refused(
    tiny_dir: Path, expected: list[list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open4ov.engine.disaggregated.server.visual_hash", lambda seen: "0" * 64)
    with Layout(tiny_dir, "tcp") as layout:
        assert tokens(answers(layout.service, requests())) == expected
        assert layout.metrics.value("stage_fallbacks", stage="encode") > 0
        assert layout.metrics.value("stage_answers", stage="encode") == 0


def test_other_weights_are_never_used(tiny_dir: Path) -> None:
    """A stage that was not told of new weights is refused, and the answer is that of the new ones."""
    with Layout(tiny_dir, "tcp") as layout:
        asked = requests()
        state = {name: value * 1.5 for name, value in layout.engine.model.state_dict().items()}
        layout.engine.update_weights(state)
        found = tokens(answers(layout.service, asked))
        assert layout.metrics.value("stage_failures", reason="weights") > 0
        assert layout.metrics.value("stage_answers") == 0
        other, processor = model(tiny_dir)
        other.load_state_dict(state)
        assert found == [[one.token_ids for one in each] for each in Engine(other, processor).generate(asked)]


def test_an_encode_stage_of_other_weights_is_asked_once_and_encodes_nothing(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Layout(tiny_dir, "tcp") as layout:
        policy = CallPolicy(attempts=3, rest=60.0, longest=60.0, patience=0.0)
        address = layout.servers[0].address
        remote = RemoteEncode(layout.engine, lambda: [address], SECRET, layout.metrics, policy)
        asked: list[int] = []
        handle = layout.servers[0].handler.handle
        monkeypatch.setattr(layout.servers[0].handler, "handle", lambda *args: asked.append(1) or handle(*args))
        for _ in range(2):  # the second time the address rests, and it is told why
            with pytest.raises(StageError, match="other weights") as found:
                remote.encode([picture(1)], "of others")
            assert found.value.reason == "weights"
        assert len(asked) == 1
        assert layout.encode.cache.statistics.misses == 0
        remote.close()


def test_what_an_address_refuses_is_asked_of_the_next_one_only(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Layout(tiny_dir, "tcp") as layout, ExitStack() as closing:
        other = Encode(VisionCache(*model(tiny_dir), watch=False), EncodePolicy(4, 0.01))
        second = StageServer(EncodeHandler(other), SECRET, ("127.0.0.1", 0))
        policy = CallPolicy(attempts=5, rest=60.0, longest=60.0)
        addresses = [layout.servers[0].address, second.address]
        remote = RemoteEncode(layout.engine, lambda: addresses, SECRET, layout.metrics, policy)
        for end in (other.stop, second.stop, remote.close):
            closing.callback(end)
        fingerprint, asked = layout.encode.fingerprint.now(), list[int]()

        def refuse(*_: Any) -> Any:
            asked.append(1)
            raise ValueError("not this one")

        monkeypatch.setattr(layout.servers[0].handler, "handle", refuse)
        assert len(remote.encode([picture(1)], fingerprint).each) == 1
        monkeypatch.setattr(second.handler, "handle", refuse)
        for count in (3, 5):  # both again: a request that is refused does not make an address rest
            with pytest.raises(StageError) as found:
                remote.encode([picture(2)], fingerprint)
            assert found.value.reason == "refused"
            assert len(asked) == count


def test_another_secret_is_tried_once(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Layout(tiny_dir, "tcp") as layout:
        tried: list[int] = []
        connect = Channel.connect
        monkeypatch.setattr(Channel, "connect", lambda *args: tried.append(1) or connect(*args))
        policy = CallPolicy(attempts=3, rest=0.01, patience=5.0)
        address = layout.servers[0].address
        remote = RemoteEncode(layout.engine, lambda: [address], b"another secret!!", layout.metrics, policy)
        with pytest.raises(StageError, match="another secret") as found:
            remote.encode([picture(1)], "x")
        assert found.value.reason == "refused"
        assert len(tried) == 1
        remote.close()


def test_without_fallback_the_request_fails_alone(tiny_dir: Path, expected: list[list[list[int]]]) -> None:
    with Layout(tiny_dir, "tcp", DecodePolicy(fallback=False)) as layout:
        layout.servers[1].stop()
        layout.prefill.stop()
        found = answers(layout.service, requests())
        failed = [one for one in found if isinstance(one, StageError)]
        assert failed, "long prompts need the stage"
        assert all(one.reason == "unreachable" for one in failed)
        short = answers(layout.service, [Request([user("How many?")], max_tokens=3)])
        assert not isinstance(short[0], Exception), "a short prompt is computed here"
        assert layout.engine.pool.available == layout.engine.pool.count


def test_somebody_without_the_secret_and_somebody_who_is_no_stage(tiny_dir: Path) -> None:
    with Layout(tiny_dir, "tcp") as layout:
        for secret in (b"", b"wrong"):
            with pytest.raises(TransportError):
                Channel.connect(layout.servers[0].address, secret)
        wrong = RemoteEncode(
            layout.engine, lambda: [layout.servers[1].address], SECRET, layout.metrics, CallPolicy(attempts=1)
        )
        with pytest.raises(StageError, match="not a stage of kind encode"):
            wrong.encode([picture(1)], "x")
        assert not isinstance(answers(layout.service, requests())[0], Exception)


def test_strangers_keep_nobody_out(tiny_dir: Path) -> None:
    """Many who connect and say nothing: the oldest of them make room, and who knows the secret is served."""
    with Layout(tiny_dir, "tcp") as layout:
        silent = [socket.create_connection(layout.servers[0].address) for _ in range(100)]
        channel = Channel.connect(layout.servers[0].address, SECRET)
        channel.send({"host": None})
        assert channel.receive()[0]["kind"] == "encode"
        assert not isinstance(answers(layout.service, requests())[1], Exception)
        assert layout.metrics.value("stage_failures") == 0
        channel.close()
        for one in silent:
            one.close()


@pytest.mark.parametrize(
    "say",
    [
        {},
        {"layout": "x", "fingerprint": "f"},
        {"layout": [5], "fingerprint": "f"},
        {"layout": [-1], "fingerprint": "f"},
        {"layout": [True], "fingerprint": "f"},
        {"layout": [0], "fingerprint": 7, "salt": ""},
        {"layout": [0], "fingerprint": "f", "salt": 7},
    ],
)
def test_messages_that_an_encode_stage_cannot_read(tiny_dir: Path, say: dict[str, Any]) -> None:
    with Layout(tiny_dir, "tcp") as layout:
        channel = Channel.connect(layout.servers[0].address, SECRET)
        channel.send({"host": None})
        assert channel.receive()[0]["kind"] == "encode"
        channel.send(say, [torch.zeros(32, 32, 3, dtype=torch.uint8)])
        told = channel.receive()[0]
        assert (told["error"], told["message"]) == ("refused", "the stage cannot read the request")
        channel.send({"layout": [], "fingerprint": layout.encode.fingerprint.now(), "salt": ""})
        told = channel.receive()[0]
        assert (told["batch"], told["digests"]) == (0, []), "it lives on"
        channel.close()


def test_a_picture_is_never_a_tensor_of_features(tiny_dir: Path) -> None:
    with Layout(tiny_dir, "tcp") as layout:
        channel = Channel.connect(layout.servers[0].address, SECRET)
        channel.send({"host": None})
        channel.receive()
        channel.send({"layout": [0], "fingerprint": "f"}, [torch.zeros(3, 32, 48)])
        with pytest.raises(TransportError):
            channel.receive(idle=10)
        assert not isinstance(answers(layout.service, requests())[0], Exception)


def test_pictures_are_encoded_together(tiny_dir: Path) -> None:
    """Static batching: those that come within the wait share a batch, and no batch is larger than the policy's."""
    encode = Encode(VisionCache(*model(tiny_dir), watch=False), EncodePolicy(batch=4, wait=0.5))
    found = encode.encode([picture(n) for n in range(6)], encode.fingerprint.now())
    assert len(found.each) == 6
    assert encode.cache.statistics.misses == 6
    assert found.batch == 2
    encode.stop()
    with pytest.raises(StageError, match="stopped"):
        encode.encode([picture(1)], "x")


def test_stages_say_how_busy_they_are(tiny_dir: Path) -> None:
    """Queue, batches and seconds of each address, in the metrics of the server that asks them."""
    with Layout(tiny_dir, "tcp") as layout:
        assert "stage_queue_length" not in layout.metrics.text()
        answers(layout.service, requests()[:4])
        text = layout.metrics.text()
        for kind, server, stage in zip(
            ("encode", "prefill"), layout.servers, (layout.encode, layout.prefill), strict=True
        ):
            of = f'{{stage="{kind}",address="127.0.0.1:{server.address[1]}"}}'
            assert f"open4ov:stage_queue_length{of} 0" in text
            batches = int(text.partition(f"open4ov:stage_batches_total{of} ")[2].split()[0])
            seconds = float(text.partition(f"open4ov:stage_busy_seconds_total{of} ")[2].split()[0])
            assert 0 < batches <= stage.batches
            assert 0 < seconds <= stage.busy * 1.001
            layout.metrics.gone(kind, f"127.0.0.1:{server.address[1]}")
        assert "stage_queue_length" not in layout.metrics.text()
        for nonsense in (None, [], {"queue": 1}, {"queue": "1", "batches": 1, "busy": 1.0}, {"queue": float("nan")}):
            layout.metrics.loaded("encode", "a:1", nonsense)
        assert "stage_queue_length" not in layout.metrics.text()


@pytest.fixture
def workers(tiny_dir: Path) -> Iterator[tuple[Service, StageMetrics, list[Workers]]]:
    """A service with real processes for its stages."""
    engine, metrics = Engine(*model(tiny_dir), watch=False), StageMetrics()
    secret = "0123456789abcdef"
    kept = [Workers(kind, tiny_dir, 1, secret, metrics) for kind in ("encode", "prefill")]
    assert all(one.wait(120) for one in kept)
    remote = [
        kind(engine, one.addresses, secret.encode(), metrics, CallPolicy(patience=90.0, timeout=60))
        for kind, one in zip((RemoteEncode, RemotePrefill), kept, strict=True)
    ]
    decode = Decode(engine, *remote, DecodePolicy(fallback=False), metrics)  # type: ignore[arg-type]
    service = Service(engine, decode=decode)
    yield service, metrics, kept
    service.stop()
    decode.close()
    for one in (*remote, *kept):
        one.close() if isinstance(one, (RemoteEncode, RemotePrefill)) else one.stop()


STAND_IN = """
import os, sys
print("listening at 127.0.0.1:" + str(int(os.environ["OPEN4OV_STAGE_KEY"]) + 1), flush=True)
sys.stdin.read()
"""


def test_a_process_that_dies_is_started_again_and_all_end_with_the_server(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in that loads no model; of real stages see below."""
    metrics, popen = StageMetrics(), subprocess.Popen

    def stand_in(command: list[str], **options: Any) -> Any:
        assert command[2:6] == ["open4ov.cli", "stage", "encode", str(tiny_dir)]
        return popen([sys.executable, "-c", STAND_IN], **options)

    monkeypatch.setattr(subprocess, "Popen", stand_in)
    kept = Workers("encode", tiny_dir, 2, "6000", metrics)
    try:
        assert kept.wait(60)
        assert kept.addresses() == [("127.0.0.1", 6001)] * 2
        first = kept.processes[0].pid
        os.kill(first, signal.SIGKILL)
        until(lambda: metrics.value("stage_restarts", stage="encode") == 1)
        until(lambda: len(kept.addresses()) == 2)
        pids = [process.pid for process in kept.processes.values()]
        assert first not in pids
    finally:
        kept.stop()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert kept.addresses() == []


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
def test_processes_and_one_that_is_killed_under_load(
    workers: tuple[Service, StageMetrics, list[Workers]], expected: list[list[list[int]]]
) -> None:
    service, metrics, kept = workers
    assert tokens(answers(service, requests())) == expected
    assert metrics.value("stage_fallbacks") == metrics.value("stage_failures") == 0
    assert metrics.value("stage_bytes", way="shared") > 0
    for one in kept:
        service.engine.update_weights()  # forgets what is computed; the weights are the same
        os.kill(one.processes[0].pid, signal.SIGKILL)
        found = answers(service, requests())
        assert tokens(found) == expected, "asked again of the one that was started anew"
        assert metrics.value("stage_restarts", stage=one.kind) == 1
    pids = [one.processes[0].pid for one in kept]
    for one in kept:
        one.stop()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not list(Path("/dev/shm").glob(f"open4ov-{pids[0]}-*"))


@pytest.mark.parametrize("text", ["", "localhost", "a:b", ":7", "a:99999", ","])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|HOST:PORT"):
        parse_addresses(text)


def test_options_that_cannot_be(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPEN4OV_STAGE_KEY", raising=False)
    engine = Engine(*model(tiny_dir))
    with (
        pytest.raises(UserError, match="--encode-at and --encode-workers contradict"),
        stages_of(engine, tiny_dir, StageOptions(encode_at="a:1", encode_workers=1)),
    ):
        pass
    with (
        pytest.raises(UserError, match="OPEN4OV_STAGE_KEY: set it"),
        stages_of(engine, tiny_dir, StageOptions(prefill_at="127.0.0.1:1")),
    ):
        pass


def test_a_server_meets_its_stages_before_it_begins(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(*model(tiny_dir), watch=False)

    def begin(**options: Any) -> Decode:
        with stages_of(engine, tiny_dir, StageOptions(**options)) as decode:
            return decode

    with Layout(tiny_dir, "tcp") as layout:
        encode, prefill = (f"127.0.0.1:{server.address[1]}" for server in layout.servers)
        monkeypatch.setenv("OPEN4OV_STAGE_KEY", SECRET.decode())
        assert isinstance(begin(encode_at=encode, prefill_at=prefill), Decode)
        assert isinstance(begin(encode_at="127.0.0.1:1"), Decode), "one that is not there yet may come"
        with pytest.raises(UserError, match=f"--encode-at {prefill}: .* not a stage of kind encode"):
            begin(encode_at=prefill)
        monkeypatch.setenv("OPEN4OV_STAGE_KEY", "another secret of these tests")
        with pytest.raises(UserError, match=f"--prefill-at {prefill}: .* another OPEN4OV_STAGE_KEY"):
            begin(prefill_at=prefill)
        monkeypatch.setenv("OPEN4OV_STAGE_KEY", SECRET.decode())
        engine.update_weights({name: value * 1.5 for name, value in engine.model.state_dict().items()})
        for options in ({"encode_at": encode}, {"prefill_at": prefill}):
            with pytest.raises(UserError, match="other weights or options than this server"):
                begin(**options)


def test_an_address_that_begins_to_fail_is_told_of_once_and_when_it_is_well_again(
    tiny_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Layout(tiny_dir, "tcp") as layout:
        policy = CallPolicy(attempts=2, rest=0.0)
        address = layout.servers[0].address
        remote = RemoteEncode(layout.engine, lambda: [address], SECRET, layout.metrics, policy)
        layout.servers[0].stop()
        for number in range(2):
            with pytest.raises(StageError):
                remote.encode([picture(number)], layout.encode.fingerprint.now())
        again = StageServer(EncodeHandler(layout.encode), SECRET, address)
        for number in range(2):
            remote.encode([picture(number)], layout.encode.fingerprint.now())
        told = [one.getMessage() for one in caplog.records if one.name.endswith("disaggregated.client")]
        assert len(told) == 2, told
        assert told[0].startswith(f"the stage at 127.0.0.1:{address[1]} begins to fail: encode: ")
        assert told[1] == f"the encode stage at 127.0.0.1:{address[1]} answers again"
        remote.close()
        again.stop()


# CVE-2026-105754, PYSEC-2026-4353: nothing is taken from a message between stages before it has been looked at.
ONE_PICTURE = torch.full((64, 96, 3), 100, dtype=torch.uint8)
REFUSED: dict[str, dict[str, Any]] = {
    "a negative start": {"start": -1},
    "a start at the end": {"start": "length"},
    "a start that is true": {"start": True},
    "a start that is text": {"start": "0"},
    "a start that is a fraction": {"start": 0.0},
    "another prompt's digest": {"prompt": "0" * 64},
    "no digest": {"prompt": None},
    "a negative number ahead": {"ahead": -1},
    "a number ahead that is text": {"ahead": "1"},
    "features that are missing": {"features": True},
    "a salt that is a number": {"salt": 5},
}
CLOSED: dict[str, tuple[dict[str, Any], list[torch.Tensor]]] = {
    "more pictures than tensors": ({"images": 2}, []),
    "fewer pictures than none": ({"images": -1}, []),
    "pictures that are true": ({"images": True}, []),
    "pictures that are text": ({"images": "1"}, []),
    "features of another width": ({"features": True}, [torch.zeros(1, 6, 3)]),
    "features of other numbers": ({"features": True}, [torch.zeros(1, 6, 3, dtype=torch.uint8)]),
    "a picture as features": ({"images": 0, "features": True}, []),
}


def to_prefill(layout: Layout, change: dict[str, Any], more: list[torch.Tensor]) -> dict[str, Any]:
    """What the prefill stage says of a message that would be in order but for `change` and `more`."""
    image = Image.fromarray(ONE_PICTURE.numpy(), "RGB")
    prompt = layout.engine.prompt(Request([user(LONG, 1)], [image], max_tokens=1))
    head = {
        "messages": say_messages(prompt.request.messages),
        "images": 1,
        "features": False,
        "prompt": digest_of(prompt),
        "start": 0,
        "fingerprint": layout.prefill.fingerprint.now(),
        "salt": "",
        "ahead": 0,
    } | change
    if head["start"] == "length":
        head["start"] = len(prompt.token_ids)
    channel = Channel.connect(layout.servers[1].address, SECRET)
    try:
        channel.send({"host": None})
        channel.receive()
        channel.send(head, [ONE_PICTURE, *more])
        return channel.receive(idle=30)[0]
    finally:
        channel.close()


def test_cve_2026_105754_pysec_2026_4353_a_prefill_stage_looks_at_what_it_is_sent(tiny_dir: Path) -> None:
    with Layout(tiny_dir, "tcp") as layout:
        steps = list[int]()
        step = layout.prefill.engine.step
        layout.prefill.engine.step = lambda: (steps.append(1), step())[1]  # type: ignore[method-assign]
        for name, change in REFUSED.items():
            assert to_prefill(layout, change, [])["error"] == "refused", name
        cache = layout.engine.vision_cache
        shape = cache.shape((1, 4, 6))
        short = torch.zeros(shape[0], shape[1] - 1, shape[2], dtype=cache.dtype)
        assert to_prefill(layout, {"features": True}, [short])["error"] == "refused", "features of fewer tokens"
        for name, (change, more) in CLOSED.items():
            with pytest.raises(TransportError):
                pytest.fail(f"{name}: {to_prefill(layout, change, more)}")
        assert not steps, "nothing was computed for any of them"
        assert "error" not in to_prefill(layout, {}, [])
