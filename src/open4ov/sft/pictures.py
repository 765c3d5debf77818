"""Pictures at the size that the model sees, the latest of them held in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from PIL import Image

from open4ov.model.images import ImageSettings, smart_resize
from open4ov.store import ImageStore

HELD_BYTES = 2**30
"""Of pixels, most that are held: enough for twenty thousand pictures of 128 x 128, or three hundred of a megapixel."""


class Pictures:
    """Reads pictures from `store` and resizes them; of those asked for last, as many as `held_bytes` allow are not read
    again. Several threads may ask."""

    def __init__(self, store: ImageStore, settings: ImageSettings, held_bytes: int = HELD_BYTES) -> None:
        self.store, self.settings, self.held_bytes = store, settings, held_bytes
        self._held: OrderedDict[str, Image.Image] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, sha: str) -> Image.Image:
        """Raises ImageError as the store does."""
        with self._lock:
            if sha in self._held:
                self._held.move_to_end(sha)
                return self._held[sha]
        image, s = self.store.get(sha), self.settings
        height, width = smart_resize(image.height, image.width, s.factor, s.min_pixels, s.max_pixels)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        with self._lock:
            if sha not in self._held:
                self._held[sha] = image
                self._bytes += _bytes(image)
            while self._bytes > self.held_bytes:
                self._bytes -= _bytes(self._held.popitem(last=False)[1])
        return image

    def clear(self) -> None:
        """Nothing is held any more."""
        with self._lock:
            self._held.clear()
            self._bytes = 0

    @property
    def bytes(self) -> int:
        """Of pixels that are held."""
        return self._bytes


def _bytes(image: Image.Image) -> int:
    return image.width * image.height * len(image.getbands())
