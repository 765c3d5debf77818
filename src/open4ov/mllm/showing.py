"""How a picture travels to an endpoint: as a data URL, no larger than the model looks at it.

Vision models scale a picture down to what they read before they look: 2048 x 2048 fit (GPT-4o), about 1.6 million
pixels (Claude, patch models of OpenAI), and 16 million for a Qwen3-VL with its own settings. A photograph sent as it is
costs upload and memory, and meets the size limits of endpoints, for pixels that nobody sees. So more than `max_pixels`
are scaled down here, and what is large as PNG goes as JPEG (`image_format: auto`); small pictures stay PNG, byte for
byte as stored.
"""

from __future__ import annotations

import base64
import io
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

from PIL import Image

from open4ov.mllm.ask import Picture, png_size
from open4ov.recipe_providers import ProviderSection

LARGE = 2**20
"""Bytes of a PNG from which `auto` sends a JPEG"""
ROOM = 128 * 2**20
"""Characters of data URLs that are held, so that the questions about one picture encode it once"""


@dataclass(frozen=True)
class Shown:
    """A picture as it is sent; `size`: its width and height then, in pixels."""

    url: str
    size: tuple[int, int]


class Showing:
    """The pictures of one provider, encoded once while they are asked about; from any thread. `room`: see `ROOM`."""

    def __init__(self, settings: ProviderSection, room: int = ROOM) -> None:
        self._settings, self._room = settings, room
        self._held: OrderedDict[str, Shown] = OrderedDict()
        self._turns: dict[str, threading.Lock] = {}
        self._length = 0
        self._lock = threading.Lock()

    def of(self, picture: Picture) -> Shown:
        """Raises `ImageError` for a picture that cannot be read."""
        with self._lock:
            if (found := self._find(picture.sha)) is not None:
                return found
            turn = self._turns.setdefault(picture.sha, threading.Lock())
        with turn:  # others who ask about this picture wait for the one who encodes it
            with self._lock:
                if (found := self._find(picture.sha)) is not None:
                    return found
            try:
                made = encode(picture, self._settings)
                with self._lock:
                    self._hold(picture.sha, made)
            finally:
                with self._lock:
                    self._turns.pop(picture.sha, None)
        return made

    def _find(self, sha: str) -> Shown | None:
        found = self._held.get(sha)
        if found is not None:
            self._held.move_to_end(sha)
        return found

    def _hold(self, sha: str, made: Shown) -> None:
        self._held[sha] = made
        self._length += len(made.url)
        while self._length > self._room:
            _, gone = self._held.popitem(last=False)
            self._length -= len(gone.url)


def encode(picture: Picture, settings: ProviderSection) -> Shown:
    """The picture as the recipe wants it sent."""
    png = picture.png
    size = png_size(png)
    small = scaled(size, settings.max_pixels)
    image: Image.Image | None = None
    if small != size:
        image = _decode(png).resize(small, Image.Resampling.LANCZOS)
        left = len(png) * (small[0] * small[1]) / (size[0] * size[1])
        if settings.image_format == "png" or (settings.image_format == "auto" and left < 4 * LARGE):
            png = _written(image, "PNG")  # which takes long, so not where it would be large without doubt
    if settings.image_format == "jpeg" or (settings.image_format == "auto" and len(png) > LARGE):
        # 4:4:4, since thin coloured lines and letters are what 4:2:0 loses first
        jpeg = _written(image or _decode(png), "JPEG", quality=settings.jpeg_quality, subsampling=0)
        return Shown(_url("jpeg", jpeg), small)
    return Shown(_url("png", png), small)


def scaled(size: tuple[int, int], most: int | None) -> tuple[int, int]:
    """Width and height with at most so many pixels, of the same shape up to rounding; never larger than before."""
    width, height = size
    if most is None or width * height <= most:
        return size
    factor = math.sqrt(most / (width * height))
    wide, high = (min(most, max(1, int(side * factor))) for side in size)
    wide = min(wide, most // high)  # where one side is a pixel already, the other gives way
    return wide, min(high, most // wide)


def _decode(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB")


def _written(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def _url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
