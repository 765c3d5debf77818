"""Memory that two processes of one host share for their transfers: a segment is written by its owner only.

The owner unlinks its segment when it is done; should it die before, Python's resource tracker, a process of its own,
does. The other side reads the file behind the name with ordinary reads, so that an owner that shrinks its segment
cannot kill it, and takes its own copy before it looks at anything.
"""

from __future__ import annotations

import os
import re
import secrets
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

FOLDER = Path("/dev/shm")
_NAME = re.compile(r"open4ov-\d{1,10}-[0-9a-f]{32}")
_LEAST = 2**20


def host() -> str | None:
    """What two processes have in common that can share memory; None where it cannot be shared."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = FOLDER.stat()
    except OSError:
        return None
    return f"{boot} {place.st_dev} {place.st_ino} {os.getuid()}"


class Segment:
    """A piece of memory that grows when more is written to it than it holds (under another name then)."""

    def __init__(self) -> None:
        self._memory: SharedMemory | None = None

    def write(self, parts: list[memoryview]) -> tuple[str, list[int]]:
        """Puts the parts into the segment; its name, and where each begins. What was there before is gone."""
        places, size = list[int](), 0
        for part in parts:
            places.append(size)
            size += -(-len(part) // 64) * 64
        if self._memory is None or self._memory.size < size:
            self.close()
            name = f"open4ov-{os.getpid()}-{secrets.token_hex(16)}"
            self._memory = SharedMemory(name, create=True, size=max(_LEAST, 1 << (size - 1).bit_length()))
        memory = self._memory.buf
        assert memory is not None
        for part, place in zip(parts, places, strict=True):
            memory[place : place + len(part)] = part
        return self._memory.name, places

    def close(self) -> None:
        """Unlinks it."""
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None


class Reader:
    """Reads segments of the other side, by name."""

    def __init__(self) -> None:
        self._open: tuple[str, int] | None = None

    def read(self, name: str, place: int, into: memoryview) -> None:
        """Fills `into` from `place` on. Raises ValueError for a name that is none of ours, a segment that is not there
        and a range that it does not have."""
        if self._open is None or self._open[0] != name:
            self.close()
            if not _NAME.fullmatch(name):
                raise ValueError("not the name of a segment")
            try:
                self._open = name, os.open(FOLDER / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                raise ValueError("no such segment") from None
        file, done = self._open[1], 0
        if place < 0 or place + len(into) > os.fstat(file).st_size:
            raise ValueError("a range beyond the segment")
        while done < len(into):
            count = os.preadv(file, [into[done:]], place + done)
            if not count:
                raise ValueError("the segment has shrunk")
            done += count

    def close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


def sweep(pid: int) -> None:
    """Unlinks what a dead process of ours has left behind, should its resource tracker have died with it."""
    for path in FOLDER.glob(f"open4ov-{pid}-*"):
        path.unlink(missing_ok=True)
