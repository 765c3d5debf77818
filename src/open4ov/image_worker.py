"""Decodes pictures that strangers send, in a process that can do nothing else: `python -m open4ov.image_worker`.

Reads pictures from stdin (8 bytes of length, then the file) and answers each on stdout: a byte that says how it went
and, for OK, width and height (4 bytes each) and the RGB pixels. It ends with its input, so it does not outlive who
started it. Memory and processor time of a picture are limited, and after its start it can open no file and no socket.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import sys
from typing import BinaryIO

from PIL import Image

from open4ov.images import ImageError, open_image

FORMATS = ("PNG", "JPEG", "WEBP")
OK, REFUSED, TOO_LARGE = 0, 1, 2
READY = b"r"
LENGTH, SIZE = struct.Struct(">Q"), struct.Struct(">II")


def decode(content: bytes, max_pixels: int) -> tuple[int, Image.Image | None]:
    """How it went, and the picture if it went well. Whatever a decoder says of a broken file stays here."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as probe:
            if probe.width * probe.height > max_pixels:
                return TOO_LARGE, None
        return OK, open_image(content, max_pixels=max_pixels)
    except Image.DecompressionBombError:  # Pillow's own limit, beyond any of ours
        return TOO_LARGE, None
    except (ImageError, OSError, ValueError, SyntaxError, MemoryError):
        return REFUSED, None


def serve(source: BinaryIO, sink: BinaryIO, max_pixels: int, memory: int, seconds: int) -> None:
    """Answers until `source` ends. `memory`: bytes of address space; `seconds`: processor time of a picture."""
    _warm_up()
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 3)
    sink.write(READY)
    sink.flush()
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        content = source.read(LENGTH.unpack(head)[0])
        _allow(seconds)
        status, image = decode(content, max_pixels)
        sink.write(bytes([status]))
        if image is not None:
            sink.write(SIZE.pack(*image.size))
            sink.write(image.tobytes())
        sink.flush()


def _warm_up() -> None:
    """Loads what the decoders load when they are first used: no file can be opened later."""
    for kind in FORMATS:
        data = io.BytesIO()
        Image.new("RGB", (8, 8)).save(data, kind)
        decode(data.getvalue(), 64)
        decode(data.getvalue()[:-12], 64)


def _limit(kind: int, most: int) -> None:
    resource.setrlimit(kind, (most, most))


def _allow(seconds: int) -> None:
    """The kernel ends this process when so many more seconds of processor time are used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not become an answer
    serve(sys.stdin.buffer, answers, *map(int, sys.argv[1:4]))
