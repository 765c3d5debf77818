"""The pictures of a request: out of data URLs, or fetched where that is allowed, and decoded elsewhere.

The last ones are remembered, as a conversation sends its pictures anew with every turn.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable

from fastapi.concurrency import run_in_threadpool
from PIL import Image

from open4ov.engine.serving.chat import ChatRequest, image_urls
from open4ov.engine.serving.decoder import Decoder, TooLarge, Unreadable
from open4ov.engine.serving.faults import Refused
from open4ov.engine.serving.fetch import BadUrl, Fetcher, NotFetched

FETCHES = 32
"""Pictures fetched at a time, of all requests"""
REMEMBERED = 64 * 2**20
"""Bytes of pixels"""
UNREADABLE = "not a readable, still PNG, JPEG or WebP image of a reasonable shape"


class Pictures:
    """Without `fetcher` no URL is fetched. `remembered`: bytes of the pictures that are kept; those not asked for
    for longest go first."""

    def __init__(self, decoder: Decoder, fetcher: Fetcher | None = None, remembered: int = REMEMBERED) -> None:
        self.decoder, self.fetcher, self.remembered = decoder, fetcher, remembered
        self._fetches = asyncio.Semaphore(FETCHES)
        self._known: OrderedDict[tuple[str, bytes], Image.Image] = OrderedDict()
        self._bytes = 0

    async def load(self, chat: ChatRequest, hold: Callable[[int], None], salt: str = "") -> list[Image.Image]:
        """A request's pictures in order, one after the other; they must not be written to. `hold` is told the bytes of
        each. What is remembered is found by those with the same `salt` only. Raises Refused."""
        images: list[Image.Image] = []
        for url, param in image_urls(chat):
            images.append(await self.picture(url, param, hold, salt))
        return images

    async def picture(self, url: str, param: str, hold: Callable[[int], None], salt: str = "") -> Image.Image:
        """The picture at a data URL, or at an https URL. `param` says where it stands. Raises Refused."""
        content = await self._content(url, param, hold)
        key = salt, await run_in_threadpool(lambda: hashlib.sha256(content).digest())
        image = self._known.get(key) or await self._decode(content, param)
        hold(_size(image))
        self._remember(key, image)
        return image

    def _remember(self, key: tuple[str, bytes], image: Image.Image) -> None:
        if (before := self._known.pop(key, None)) is not None:
            self._bytes -= _size(before)
        self._known[key] = image
        self._bytes += _size(image)
        while self._bytes > self.remembered:
            self._bytes -= _size(self._known.popitem(last=False)[1])

    async def _decode(self, content: bytes, param: str) -> Image.Image:
        try:
            return await self.decoder.decode(content)
        except TooLarge:
            raise Refused(f"an image may have at most {self.decoder.max_pixels} pixels", param) from None
        except Unreadable:  # a decoder's own words may tell of memory
            raise Refused(UNREADABLE, param) from None

    async def _content(self, url: str, param: str, hold: Callable[[int], None]) -> bytes:
        head, comma, data = url.partition(",")
        if comma and head.startswith("data:image/") and head.endswith(";base64"):
            try:
                return await run_in_threadpool(base64.b64decode, data, validate=True)
            except (binascii.Error, ValueError):
                raise Refused(UNREADABLE, param) from None
        if self.fetcher is None:
            raise Refused("an image must be a data URL (data:image/png;base64,...); URLs are not fetched", param)
        try:
            async with self._fetches:
                content = await self.fetcher.fetch(url)
        except BadUrl as error:
            raise Refused(f"an image must be a data URL or an https URL: {error}", param) from None
        except NotFetched:
            raise Refused("the image could not be fetched", param) from None
        hold(len(content))
        return content


def _size(image: Image.Image) -> int:
    return 3 * image.width * image.height
