"""Tar archives from anywhere, read member by member in order; nothing is ever unpacked onto the disk.

Only regular files with plain relative names are given. Links, devices, pipes, sparse files, absolute names and names
with `..` are refused, each with its reason. What a member, a header and a whole compressed archive may unpack to is
bounded, so a bomb ends the archive and not the machine.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tarfile import InvalidHeaderError, ReadError, TruncatedHeaderError  # pyright: ignore
from typing import BinaryIO, Self, cast

MAX_MEMBER = 2**26
"""Bytes of one member; a larger one is passed over."""
MAX_RATIO = 200
"""Bytes that a byte of a compressed archive may unpack to, beyond the first MAX_MEMBER."""
_HEADERS = 2**20
"""Bytes of headers (long names, pax records) before a member."""


@dataclass(frozen=True)
class Member:
    """A member's name and bytes; or, without bytes, why it is refused. The last may end the archive."""

    name: str
    data: bytes | None
    reason: str = ""


def members(path: Path) -> Iterator[Member]:
    """The members of an archive in their order: plain, gzip, bzip2 or xz, by its first bytes."""
    name = ""
    with path.open("rb") as raw:
        opened = _unpacked(raw)
        compressed = opened is not raw
        limit = MAX_MEMBER + MAX_RATIO * path.stat().st_size if compressed else None
        stream = _Bounded(opened, limit)
        try:
            stream.allow(_HEADERS)
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|", tarinfo=_Info) as archive:
                while (info := archive.next()) is not None:
                    name = info.name
                    archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  it would keep every header
                    stream.allow(info.size + _HEADERS)
                    reason = refused(info)
                    if reason:
                        yield Member(_short(name), None, reason)
                    if reason is not None:
                        continue
                    file = archive.extractfile(info)
                    assert file is not None
                    data = file.read()
                    if len(data) != info.size:
                        yield Member(_short(name), None, "the archive ends in this member")
                        return
                    yield Member(name, data)
        except _Bomb as error:
            yield Member(_short(name), None, f"{error}; the rest of the archive is not read")
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            yield Member(_short(name), None, f"the archive is damaged after this: {reason}; the rest is lost")


def refused(info: tarfile.TarInfo) -> str | None:
    """Why a member is not read; None for one that is, and for a plain folder an empty text."""
    if info.isdir():
        return _bad_name(info.name) or ""
    if info.issym() or info.islnk():
        return f"a link to {_short(info.linkname)}; links are not followed"
    if info.issparse():
        return "a sparse file"
    if not info.isreg():
        return "no regular file (a device, a pipe or the like)"
    if bad := _bad_name(info.name):
        return bad
    if info.size > MAX_MEMBER:
        return f"{info.size} bytes; the limit is {MAX_MEMBER}"
    return None


def _bad_name(name: str) -> str | None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":"):
        return "an absolute name"
    if ".." in parts:
        return "a name that leads out of the archive (..)"
    if not parts or "\0" in name:
        return "no name"
    return None


class _Info(tarfile.TarInfo):
    """`tarfile` takes a broken header after the first for the end of the archive; here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except (InvalidHeaderError, TruncatedHeaderError):
            raise ReadError("a broken header") from None


class _Bomb(Exception):
    pass


class _Bounded:
    """A stream that gives no more than is allowed until the next `allow`, and no more than `limit` in all."""

    def __init__(self, stream: BinaryIO, limit: int | None) -> None:
        self._stream, self._limit, self._given, self._allowed = stream, limit, 0, 0

    def allow(self, size: int) -> None:
        self._allowed = self._given + size + 2 * tarfile.RECORDSIZE

    def read(self, size: int) -> bytes:
        if self._given >= self._allowed:
            raise _Bomb(f"headers of more than {_HEADERS} bytes")
        data = self._stream.read(size)
        self._given += len(data)
        if self._limit is not None and self._given > self._limit:
            raise _Bomb(f"unpacks to more than {MAX_RATIO} times its size")
        return data


def _unpacked(raw: BinaryIO) -> BinaryIO:
    head = raw.read(6)
    raw.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if head.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(raw))
    if head.startswith(b"\xfd7zXZ\x00"):
        return cast(BinaryIO, lzma.LZMAFile(raw))
    return raw


def _short(name: str) -> str:
    return name if len(name) <= 120 else name[:100] + "..."
