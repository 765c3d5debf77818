"""What rows call an image -> the image store: a path, a data URL, base64, bytes, or a struct of bytes and path.

A path is followed only below the folders that the user named: the file's own, and those of `--images`. What is not
PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM by its first bytes is refused before a decoder sees it. The store keeps the RGB
pixels as PNG; with `originals` the files of PNG, JPEG and WebP images are kept beside it, metadata and all, so that an
export has their very bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from open4ov.formats import dicom
from open4ov.formats.places import find, short
from open4ov.formats.row import Reference, RowError
from open4ov.images import MAX_PIXELS, ImageError, kind_of, open_image
from open4ov.store import ImageStore, atomic

MAX_FILE = 2**28
"""Bytes of one image file; more is refused."""
_REMEMBERED = 1024
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
_KEPT = ("png", "jpg", "webp")


class Pictures:
    """Puts images away and gives their SHA-256 in the store."""

    def __init__(
        self,
        store: ImageStore,
        roots: Sequence[Path] = (),
        max_pixels: int = MAX_PIXELS,
        originals: Path | None = None,
    ) -> None:
        self.store = store
        self.roots = [root.resolve() for root in roots]
        self.max_pixels = max_pixels
        self.originals = originals
        self._known: OrderedDict[tuple[str, int, int], str] = OrderedDict()

    def put(self, reference: Reference) -> str:
        """Raises ImageError for an image, RowError for a reference, that cannot be used."""
        if isinstance(reference, dict):
            given = cast("dict[str, Any]", reference)
            data, path = given.get("bytes"), given.get("path")
            if isinstance(data, bytes | bytearray):
                return self.put_bytes(bytes(data), str(path or "the image"))
            reference = path if path is not None else given.get("url")
        if isinstance(reference, bytes | bytearray):
            return self.put_bytes(bytes(reference), "the image")
        if not isinstance(reference, str) or not reference:
            raise RowError(f"an image is named by a {type(reference).__name__}, not by a path or data URL")
        if reference.startswith("data:"):
            return self.put_bytes(from_data_url(reference), "the data URL")
        return self._file(self.find(reference))

    def put_bytes(self, data: bytes, name: str) -> str:
        """Puts the image in a file's bytes away."""
        if len(data) > MAX_FILE:
            raise ImageError(f"{name}: {len(data)} bytes; the limit is {MAX_FILE}")
        kind = kind_of(data)
        if kind == "dicom":
            frames = list(dicom.frames(data, name, self.max_pixels))
            if len(frames) != 1:
                raise ImageError(
                    f"{name}: DICOM of {len(frames)} frames; import the folder, which gives one image each"
                )
            return self.store.put(frames[0].image)
        if kind is None and data:
            raise ImageError(f"{name}: not PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM by its first bytes")
        sha = self.store.put(open_image(data, max_pixels=self.max_pixels, name=name, option="--max-pixels"))
        if self.originals is not None and kind in _KEPT:
            self._keep(sha, kind, data)
        return sha

    def find(self, name: str) -> Path:
        """The file that a row names. Raises RowError when it is elsewhere, ImageError when it is not there."""
        return find(name, self.roots, "--images")

    def original(self, sha: str) -> Path | None:
        """The file that an image was read from, where it was kept."""
        if self.originals is None:
            return None
        paths = (self.originals / sha[:2] / f"{sha}.{kind}" for kind in _KEPT)
        return next((path for path in paths if path.is_file()), None)

    def _file(self, path: Path) -> str:
        about = path.stat()
        key = (str(path), about.st_size, about.st_mtime_ns)
        if key not in self._known:
            if about.st_size > MAX_FILE:
                raise ImageError(f"{path.name}: {about.st_size} bytes; the limit is {MAX_FILE}")
            self._known[key] = self.put_bytes(path.read_bytes(), path.name)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return self._known[key]

    def _keep(self, sha: str, kind: str, data: bytes) -> None:
        if self.original(sha) is None:
            assert self.originals is not None
            with atomic(self.originals / sha[:2] / f"{sha}.{kind}") as temporary:
                temporary.write_bytes(data)

    def frames(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """The images of a file, and what a DICOM file says of each beside its pixels."""
        if path.stat().st_size <= MAX_FILE and is_dicom(path):
            for frame in dicom.frames(path.read_bytes(), path.name, self.max_pixels):
                yield self.store.put(frame.image), frame.about
            return
        yield self._file(path), {}


def name_of(reference: Reference) -> str | None:
    """The path that a reference gives, if it gives one."""
    if isinstance(reference, dict):
        given = cast("dict[str, Any]", reference)
        reference = given.get("path") or given.get("url")
    if not isinstance(reference, str) or reference.startswith("data:"):
        return None
    return reference


def from_data_url(url: str) -> bytes:
    """The bytes in a base64 data URL."""
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise RowError(f"{short(url)}: a data URL without base64; write it as data:image/png;base64,...")
    return from_base64(body, "the data URL")


def from_base64(text: str, name: str) -> bytes:
    """The bytes in base64 text; line breaks are let pass. Raises RowError."""
    if len(text) > MAX_FILE * 4 // 3 + 4:
        raise RowError(f"{name}: {len(text)} characters; the limit is {MAX_FILE} bytes")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError(f"{name}: no base64: {error}") from None


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes. Raises ImageError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return kind_of(file.read(132)) == "dicom"
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from None
