"""The pictures of a request: out of data URLs, or fetched where that is allowed, and decoded elsewhere."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable

from fastapi.concurrency import run_in_threadpool
from PIL import Image

from open4ov.engine.serving.chat import ChatRequest, image_urls
from open4ov.engine.serving.decoder import Decoder, TooLarge, Unreadable
from open4ov.engine.serving.faults import Refused
from open4ov.engine.serving.fetch import BadUrl, Fetcher, NotFetched

FETCHES = 32
"""Pictures fetched at a time, of all requests"""
UNREADABLE = "not a readable, still PNG, JPEG or WebP image of a reasonable shape"


class Pictures:
    """Without `fetcher` no URL is fetched."""

    def __init__(self, decoder: Decoder, fetcher: Fetcher | None = None) -> None:
        self.decoder, self.fetcher = decoder, fetcher
        self._fetches = asyncio.Semaphore(FETCHES)

    async def load(self, chat: ChatRequest, hold: Callable[[int], None]) -> list[Image.Image]:
        """A request's pictures in order, one after the other. `hold` is told the bytes of each. Raises Refused."""
        images: list[Image.Image] = []
        for url, param in image_urls(chat):
            images.append(await self.picture(url, param, hold))
        return images

    async def picture(self, url: str, param: str, hold: Callable[[int], None]) -> Image.Image:
        """The picture at a data URL, or at an https URL. `param` says where it stands. Raises Refused."""
        content = await self._content(url, param, hold)
        try:
            image = await self.decoder.decode(content)
        except TooLarge:
            raise Refused(f"an image may have at most {self.decoder.max_pixels} pixels", param) from None
        except Unreadable:  # a decoder's own words may tell of memory
            raise Refused(UNREADABLE, param) from None
        hold(3 * image.width * image.height)
        return image

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
