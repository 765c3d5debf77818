"""Sessions whose pictures are encoded and whose prompts are computed by other stages: the same answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from test_disaggregated import LONG, SECRET, Layout
from test_generate import picture
from test_server import wait
from test_session import Server

from open4ov.engine import Engine, Request
from open4ov.engine.disaggregated.client import RemoteEncode, RemotePrefill
from open4ov.engine.disaggregated.decode import Decode, DecodePolicy
from open4ov.engine.disaggregated.metrics import StageMetrics
from open4ov.engine.disaggregated.server import EncodeHandler, PrefillHandler, StageServer
from open4ov.engine.disaggregated.threads import Encode, Prefill
from open4ov.engine.service import Service
from open4ov.engine.vision_cache import VisionCache
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import Message, user


@pytest.mark.parametrize("least", [1, 32])
def test_what_is_computed_ahead_over_stages_is_found(tiny_dir: Path, least: int) -> None:
    """Of any length: before the picture, in the middle of a block, behind the picture, nearly all."""
    asked = Request([user(LONG * 2, 1)], [picture(31)], max_tokens=8)
    with Layout(tiny_dir, "objects", DecodePolicy(fallback=False, least=least), block_size=4) as layout:
        whole = len(layout.engine.prompt(asked).token_ids)
        expected = Engine(layout.engine.model, layout.engine.processor).generate([asked])[0][0].token_ids

        async def spoken() -> list[int]:
            holds = []
            for tokens in (3, 18, 41, whole - 1, whole):
                hold = layout.service.submit(replace(asked, ahead=tokens, max_tokens=1))
                assert (await anext(hold)).completion is None
                holds.append(hold)
            found = [update async for update in layout.service.submit(asked)]
            assert found[-1].found_tokens == whole - 1
            for hold in holds:
                await hold.aclose()
            assert found[-1].completion is not None
            return found[-1].completion.token_ids

        assert asyncio.run(spoken()) == expected
        pool = layout.engine.pool
        wait(lambda: not layout.engine.busy and pool.available == pool.count)
        assert layout.engine.vision_cache.statistics.misses == 0
        assert not layout.decode._ahead.tokens
        stage = layout.prefill.engine
        wait(lambda: not stage.scheduler.held and stage.pool.available == stage.pool.count)


class Staged(Server):
    """A server of sessions with an encode and a prefill stage behind TCP."""

    def serve(self, queue: int) -> Service:
        self.closing = ExitStack()
        model, processor = self.engine.model, self.engine.processor
        self.stages = (
            Encode(VisionCache(model, processor, watch=False)),
            Prefill(model, processor, watch=False),
        )
        servers = [
            StageServer(handler, SECRET, ("127.0.0.1", 0))
            for handler in (EncodeHandler(self.stages[0]), PrefillHandler(self.stages[1]))
        ]
        metrics = StageMetrics()
        encode = RemoteEncode(self.engine, lambda: [servers[0].address], SECRET, metrics)
        prefill = RemotePrefill(self.engine, lambda: [servers[1].address], SECRET, metrics)
        decode = Decode(self.engine, encode, prefill, DecodePolicy(fallback=False, least=8), metrics)
        for end in (encode.close, prefill.close, decode.close, *(one.stop for one in (*servers, *self.stages))):
            self.closing.callback(end)
        return Service(self.engine, queue, decode)

    def close(self) -> None:
        super().close()
        self.closing.close()


@pytest.fixture(scope="module")
def server(tiny_dir: Path) -> Iterator[Staged]:
    server = Staged(tiny_dir)
    yield server
    server.close()


def test_a_conversation_is_answered_as_without_stages(server: Staged, tiny_dir: Path) -> None:
    alone = Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir))
    session = server.open()
    session.image(1)
    session.say("What ", "colour ", "is the ", "square")
    session.revise("What colour is the circle? " + LONG)
    session.ready()
    told = session.commit()
    first = Request([user("What colour is the circle? " + LONG, 1)], [picture(1, (64, 96))], max_tokens=8)
    turned = replace(first, messages=[_image_first(first)])
    assert told["choices"][0]["message"]["content"] == alone.generate([turned])[0][0].text
    assert told["usage"]["prompt_tokens_details"]["cached_tokens"] > 0

    session.image(2, (96, 96))
    session.say("and ", "this ", "one? ", LONG)
    session.ready()
    again = session.commit()
    assert again["choices"][0]["finish_reason"] in ("stop", "length")
    assert server.engine.vision_cache.statistics.misses == 0, "the decode stage encodes no picture"
    assert self_computed(server) == 0
    session.close()
    wait(lambda: server.free, 60)


def self_computed(server: Staged) -> int:
    assert server.service.decode is not None
    return server.service.decode.metrics.value("stage_fallbacks")


def _image_first(request: Request) -> Message:
    """The picture came before the words."""
    message = request.messages[0]
    return message.model_copy(update={"content": sorted(message.content, key=lambda part: part.type != "image")})
