"""Pictures decoded in processes of their own, since decoders of picture formats are where hostile files do harm.

A few processes (`open4ov.image_worker`) take a picture each; one that takes too long is killed, one that dies is
replaced, and the picture is refused with fixed words. Pixels come back through a pipe.
"""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from open4ov import image_worker as worker

MAX_PIXELS = 16_000_000
SECONDS = 30
PROCESSOR_SECONDS = 10
MEMORY = 2**30
INHERITED = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG")
"""What the processes may know of the environment: no keys"""


class Unreadable(Exception):
    """Not a picture that is taken: broken, of another format, animated, of a bad shape, or too much work."""


class TooLarge(Unreadable):
    """More pixels than are taken."""


class Decoder:
    """`workers` processes, started when they are first needed. A picture may have `max_pixels`, take `seconds` in all
    and `processor_seconds` of computing; a process may have `memory` bytes of address space."""

    def __init__(
        self,
        workers: int = 2,
        max_pixels: int = MAX_PIXELS,
        seconds: float = SECONDS,
        processor_seconds: int = PROCESSOR_SECONDS,
        memory: int = MEMORY,
    ) -> None:
        self.max_pixels, self.seconds = max_pixels, seconds
        self._limits = [str(max_pixels), str(memory), str(processor_seconds)]
        self._own = threading.local()
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decoder")

    @property
    def processes(self) -> list[int]:
        """The numbers of the processes that run."""
        with self._lock:
            return [process.pid for process in self._processes]

    def warm(self) -> None:
        """Starts the first process without waiting for it, so that the first picture need not."""
        self._threads.submit(self._process)

    async def decode(self, content: bytes) -> Image.Image:
        """The picture in a file, RGB. Raises TooLarge and Unreadable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, content)

    def close(self) -> None:
        """Ends all processes; what they work on is refused."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in list(self._processes):
            self._end(process)

    def _decode(self, content: bytes) -> Image.Image:
        process = self._process()
        try:
            return self._ask(process, content)
        except (OSError, EOFError, TimeoutError):
            self._end(process)
            raise Unreadable from None

    def _ask(self, process: subprocess.Popen[bytes], content: bytes) -> Image.Image:
        assert process.stdin is not None
        assert process.stdout is not None
        sink, source, end = process.stdin.fileno(), process.stdout.fileno(), time.monotonic() + self.seconds
        _write(sink, worker.LENGTH.pack(len(content)), end)
        _write(sink, content, end)
        (status,) = _read(source, 1, end)
        if status != worker.OK:
            raise TooLarge if status == worker.TOO_LARGE else Unreadable
        width, height = worker.SIZE.unpack(_read(source, worker.SIZE.size, end))
        if width * height > self.max_pixels:  # the process is not trusted either
            raise EOFError
        return Image.frombuffer("RGB", (width, height), _read(source, width * height * 3, end), "raw", "RGB", 0, 1)

    def _process(self) -> subprocess.Popen[bytes]:
        """This thread's process, a new one if it has none that runs."""
        known: subprocess.Popen[bytes] | None = getattr(self._own, "process", None)
        if known is not None and known.poll() is None:
            return known
        if known is not None:
            self._end(known)
        command = [sys.executable, "-m", worker.__name__, *self._limits]
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment = {**inherited, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with self._lock:
            if self._closed:
                raise Unreadable
            pipe, null = subprocess.PIPE, subprocess.DEVNULL
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, bufsize=0, env=environment)
            self._processes.add(process)
        self._own.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        try:
            _read(process.stdout.fileno(), len(worker.READY), time.monotonic() + 60)
        except (OSError, EOFError, TimeoutError):
            self._end(process)
            raise Unreadable from None
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        with self._lock:
            self._processes.discard(process)


def _write(pipe: int, content: bytes, end: float) -> None:
    rest = memoryview(content)
    while rest:
        _wait(pipe, select.POLLOUT, end)
        rest = rest[os.write(pipe, rest) :]


def _read(pipe: int, count: int, end: float) -> bytearray:
    found = bytearray(count)
    rest = memoryview(found)
    while rest:
        _wait(pipe, select.POLLIN, end)
        read = os.readv(pipe, [rest])
        if not read:
            raise EOFError
        rest = rest[read:]
    return found


def _wait(pipe: int, event: int, end: float) -> None:
    """Until the pipe can be used (or is broken, which its use then shows). Raises TimeoutError at `end`."""
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
        raise TimeoutError
