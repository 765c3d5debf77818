"""Pictures that come again are not decoded again, by whom they belong to, and only so many bytes of them are kept."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import pytest
from test_decoder import saved
from test_generate import picture

from open4ov.engine.serving.chat import ChatRequest, Refused
from open4ov.engine.serving.decoder import Decoder
from open4ov.engine.serving.pictures import Pictures

SIZE = 3 * 64 * 64


class Counting(Decoder):
    """Counts what it decodes."""

    decoded = 0

    async def decode(self, content: bytes) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.decoded += 1
        return await super().decode(content)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Counting]:
    decoder = Counting(workers=1)
    yield decoder
    decoder.close()


def load(pictures: Pictures, *contents: bytes, salt: str = "") -> tuple[list[bytes], int]:
    """Pixels, and the bytes that the request was said to hold."""
    urls = [f"data:image/png;base64,{base64.b64encode(content).decode()}" for content in contents]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    chat = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": parts}]})
    held: list[int] = []
    images = asyncio.run(pictures.load(chat, held.append, salt))
    return [image.tobytes() for image in images], sum(held)


def test_a_picture_that_comes_again_is_not_decoded_again_for_its_own_key(decoder: Counting) -> None:
    pictures, content = Pictures(decoder), saved(picture(1, (64, 64)), "PNG")
    decoder.decoded = 0
    first = load(pictures, content, salt="a")
    assert first == ([picture(1, (64, 64)).tobytes()], SIZE)
    assert load(pictures, content, content, salt="a") == (first[0] * 2, 2 * SIZE)  # counted for the request as before
    assert decoder.decoded == 1
    assert load(pictures, content, salt="b") == first
    assert decoder.decoded == 2


def test_those_not_asked_for_for_longest_go_first(decoder: Counting) -> None:
    pictures = Pictures(decoder, remembered=2 * SIZE)
    contents = [saved(picture(seed, (64, 64)), "PNG") for seed in range(3)]
    decoder.decoded = 0
    load(pictures, contents[0], contents[1], contents[0], contents[2])  # 1 goes
    assert decoder.decoded == 3
    load(pictures, contents[0], contents[2])
    assert decoder.decoded == 3
    load(pictures, contents[1])
    assert decoder.decoded == 4
    none = Pictures(decoder, remembered=0)
    load(none, contents[0])
    load(none, contents[0])
    assert decoder.decoded == 6


def test_what_is_refused_is_not_remembered(decoder: Counting) -> None:
    pictures = Pictures(decoder)
    decoder.decoded = 0
    for _ in range(2):
        with pytest.raises(Refused):
            load(pictures, b"no picture")
    assert decoder.decoded == 2
