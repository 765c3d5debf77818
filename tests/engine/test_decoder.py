"""Pictures decoded in limited processes: the same pixels, and what hostile files and dying processes lead to."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator

import pytest
from PIL import Image, PngImagePlugin
from test_generate import picture

from open4ov.engine.serving.decoder import Decoder, TooLarge, Unreadable
from open4ov.images import open_image


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(workers=1)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def strict() -> Iterator[Decoder]:
    """Two seconds of computing for a picture, and more time than it needs: it is the computing that ends."""
    decoder = Decoder(workers=1, processor_seconds=2, seconds=600)
    yield decoder
    decoder.close()


def decoded(decoder: Decoder, content: bytes) -> Image.Image:
    return asyncio.run(decoder.decode(content))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    """An 8-bit RGB PNG of zeros; `chunks` stand before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    rows = zlib.compress(b"\0" * (size[1] * (1 + 3 * size[0])) if size[0] * size[1] < 10**6 else b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times: each costs work for every pixel, and no bytes."""
    data = saved(Image.new("L", (3000, 3000), 128), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + b"\xff\xd9"


def animated(kind: str) -> bytes:
    return saved(picture(1), kind, save_all=True, append_images=[picture(2)])


ITXT = chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(b"\0" * (200 * 2**20)))
HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no picture": lambda: b"GIF, I promise",
    "half a picture": lambda: saved(picture(1), "PNG")[:900],
    "a PNG of 400 megapixels": lambda: png(size=(20_000, 20_000)),
    "a PNG of two billion rows": lambda: png(size=(1, 2**31 - 1)),
    "a PNG without pixels": lambda: png(size=(0, 0)),
    "a compressed text of 200 MB": lambda: png(ITXT),
    "a JPEG of 5000 scans": lambda: scans(5000),
    "an animated PNG": lambda: animated("PNG"),
    "an animated WebP": lambda: animated("WEBP"),
    "a GIF": lambda: saved(picture(1), "GIF"),
    "a TIFF": lambda: saved(picture(1), "TIFF"),
    "a JPEG 2000": lambda: saved(picture(1), "JPEG2000"),
    "a BMP": lambda: saved(picture(1), "BMP"),
    "an icon": lambda: saved(picture(1), "ICO"),
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "a picture one pixel wide": lambda: png(size=(1, 900)),
}

LARGE = ("a PNG of 400 megapixels", "a PNG of two billion rows")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pixels_are_those_of_open_image(decoder: Decoder, kind: str) -> None:
    for image in (picture(3, (65, 91)), picture(4).convert("L"), Image.new("RGBA", (30, 20), (200, 100, 50, 90))):
        content = saved(image.convert("RGB") if kind == "JPEG" and image.mode == "RGBA" else image, kind)
        found, expected = decoded(decoder, content), open_image(content)
        assert (found.mode, found.size) == ("RGB", expected.size)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_and_the_next_is_decoded(strict: Decoder, case: str) -> None:
    with pytest.raises(TooLarge if case in LARGE else Unreadable) as caught:
        decoded(strict, HOSTILE[case]())
    assert str(caught.value) == ""
    assert decoded(strict, saved(picture(1), "PNG")).tobytes() == picture(1).tobytes()


def test_pixels_are_counted_before_they_are_decoded(decoder: Decoder) -> None:
    with pytest.raises(TooLarge):
        decoded(decoder, saved(Image.new("RGB", (4001, 4000)), "PNG"))
    assert decoded(decoder, saved(Image.new("RGB", (4000, 4000)), "PNG")).size == (4000, 4000)


def test_memory_is_limited() -> None:
    decoder = Decoder(workers=1, memory=400 * 2**20)
    try:
        small = decoded(decoder, saved(picture(1), "PNG"))
        (process,) = decoder.processes
        with pytest.raises(Unreadable):  # pixels, white, and what is laid on it: 64 MB each
            decoded(decoder, saved(Image.new("RGBA", (4000, 4000), (1, 2, 3, 4)), "PNG"))
        assert small.tobytes() == picture(1).tobytes()
        assert decoded(decoder, saved(picture(2), "PNG")).tobytes() == picture(2).tobytes()
        assert decoder.processes == [process]
    finally:
        decoder.close()


def test_a_process_that_hangs_is_killed_and_replaced() -> None:
    decoder = Decoder(workers=1, seconds=1)
    try:
        decoded(decoder, saved(picture(1), "PNG"))
        (process,) = decoder.processes
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(Unreadable):
            decoded(decoder, saved(picture(2), "PNG"))
        assert not alive(process)
        decoder.seconds = 60
        assert decoded(decoder, saved(picture(2), "PNG")).tobytes() == picture(2).tobytes()
    finally:
        decoder.close()


def test_a_process_that_died_is_replaced() -> None:
    decoder = Decoder(workers=1)
    try:
        decoded(decoder, saved(picture(1), "PNG"))
        (process,) = decoder.processes
        os.kill(process, signal.SIGKILL)
        wait(lambda: not running(process))
        assert decoded(decoder, saved(picture(2), "PNG")).tobytes() == picture(2).tobytes()
        assert process not in decoder.processes
    finally:
        decoder.close()
    assert decoder.processes == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_process_can_open_nothing_and_knows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN4OV_API_KEYS", "very-secret")
    decoder = Decoder(workers=1)
    try:
        decoded(decoder, saved(picture(1), "PNG"))
        (process,) = decoder.processes
        with open(f"/proc/{process}/limits") as file:
            limits = {line[:25].strip(): line[25:].split()[0] for line in file}
        assert limits["Max open files"] == "3"
        assert limits["Max file size"] == "0"
        assert limits["Max core file size"] == "0"
        assert int(limits["Max address space"]) == 2**30
        with open(f"/proc/{process}/environ", "rb") as file:
            assert b"very-secret" not in file.read()
    finally:
        decoder.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_end_with_a_server_that_is_killed() -> None:
    program = """
import asyncio, io, time
from PIL import Image
from open4ov.engine.serving.decoder import Decoder
data = io.BytesIO()
Image.new("RGB", (8, 8)).save(data, "PNG")
decoder = Decoder()
asyncio.run(decoder.decode(data.getvalue()))
print(*decoder.processes, flush=True)
time.sleep(600)
"""
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    processes = [int(word) for word in server.stdout.readline().split()]
    server.stdout.close()
    assert processes
    assert all(alive(process) for process in processes)
    server.kill()
    server.wait()
    wait(lambda: not any(running(process) for process in processes))


def test_text_beside_the_pixels_is_no_harm(decoder: Decoder) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("note", "short")
    assert decoded(decoder, saved(picture(1), "PNG", pnginfo=info)).tobytes() == picture(1).tobytes()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def running(process: int) -> bool:
    """Whether a process is there and has not ended (one that nobody has waited for is still there)."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
