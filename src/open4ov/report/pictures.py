"""Pictures as a page holds them: small, each once, within a limit of bytes, and without a fuss where one is gone."""

from __future__ import annotations

import base64
import io

from PIL import Image

from open4ov.images import ImageError
from open4ov.store import ImageStore
from open4ov.templates import png_uri

SIDE = 320
"""Pixels of the longer side; larger pictures are scaled down"""
SMALL = 24_000
"""Bytes of a PNG that is taken as it is"""
LIMIT = 3_500_000
"""Bytes of all pictures of a page, as data URIs"""


class Pictures:
    """A store's pictures as data URIs. `missing`: asked for and not in the store, or changed since; `left_out`: asked
    for when the limit had been reached."""

    def __init__(self, store: ImageStore, limit: int = LIMIT) -> None:
        self.store = store
        self.limit = limit
        self.bytes = 0
        self.missing: set[str] = set()
        self.left_out: set[str] = set()
        self._made: dict[str, str] = {}

    def uri(self, sha: str) -> str | None:
        """The picture; None when it is missing or left out. Asked for again, it counts once."""
        if sha in self._made:
            return self._made[sha]
        try:
            png = self.store.png(sha)
            uri = png_uri(png) if len(png) <= SMALL else _smaller(png)
        except (ImageError, OSError):
            self.missing.add(sha)
            return None
        if self.bytes + len(uri) > self.limit:
            self.left_out.add(sha)
            return None
        self.bytes += len(uri)
        self._made[sha] = uri
        return uri

    def there(self, sha: str) -> bool:
        """Whether the store has a file of that name; one that has not counts as missing."""
        found = self.store.path(sha).is_file()
        if not found:
            self.missing.add(sha)
        return found


def _smaller(png: bytes) -> str:
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
