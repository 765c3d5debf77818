"""Images as users have them, content-addressed images, and samples in Parquet."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from open4ov.errors import UserError
from open4ov.sample import Label, Sample, Vote, assistant, user
from open4ov.store import ImageError, ImageStore, atomic, open_image, read_samples, sweep, write_samples


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> list[list[tuple[int, ...]]]:
    image = open_image(data)
    assert image.mode == "RGB"
    assert image.info == {}
    return [[tuple(map(int, pixel)) for pixel in row] for row in np.asarray(image)]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written byte by byte, so that what is expected does not come from the library under test."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + end


# ---------------------------------------------------------------------------------------------- conversions


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = [0, 128, 129, 257, 0x8000, 0xFF00, 0xFFFF, 1000]
    rows = b"\x00" + struct.pack(">8H", *values)
    assert pixels(png(8, 1, 16, 0, rows)) == [[(round(v / 257),) * 3 for v in values]]


def test_sixteen_bit_grey_with_a_transparent_value_is_laid_on_white() -> None:
    rows = b"\x00" + struct.pack(">3H", 0, 1000, 0xFFFF)
    assert pixels(png(3, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 1000)))) == [
        [(0,) * 3, (255,) * 3, (255,) * 3]
    ]


def test_sixteen_bit_colour_keeps_its_range() -> None:
    rows = b"\x00" + struct.pack(">6H", 0xFFFF, 0x8080, 0, 0x0101, 0x4040, 0xC0C0)
    assert pixels(png(2, 1, 16, 2, rows)) == [[(255, 128, 0), (1, 64, 192)]]


def test_sixteen_bit_tiff() -> None:
    deep = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))
    assert pixels(encoded(deep, "TIFF")) == [[(0,) * 3, (1,) * 3, (255,) * 3]]


def test_palette_with_and_without_transparency() -> None:
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255]))
    rows = b"\x00" + bytes([0, 1, 2])
    assert pixels(png(3, 1, 8, 3, rows, palette)) == [[(255, 0, 0), (0, 255, 0), (0, 0, 255)]]
    see_through = chunk(b"tRNS", bytes([255, 0, 51]))  # opaque, invisible, a fifth
    assert pixels(png(3, 1, 8, 3, rows, palette, see_through)) == [[(255, 0, 0), (255, 255, 255), (204, 204, 255)]]


def test_transparency_is_laid_on_white() -> None:
    rgba = b"\x00" + bytes([10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 51])
    assert pixels(png(3, 1, 8, 6, rgba)) == [[(10, 20, 30), (255, 255, 255), (204, 204, 204)]]
    la = b"\x00" + bytes([10, 255, 10, 0, 0, 102])
    assert pixels(png(3, 1, 8, 4, la)) == [[(10,) * 3, (255,) * 3, (153,) * 3]]
    keyed = png(2, 1, 8, 2, b"\x00" + bytes([9, 8, 7, 1, 2, 3]), chunk(b"tRNS", struct.pack(">3H", 9, 8, 7)))
    assert pixels(keyed) == [[(255, 255, 255), (1, 2, 3)]]


def test_one_bit_and_eight_bit_grey() -> None:
    assert pixels(png(4, 1, 1, 0, b"\x00\xa0")) == [[(255,) * 3, (0,) * 3, (255,) * 3, (0,) * 3]]
    assert pixels(png(2, 1, 8, 0, b"\x00\x07\xc8")) == [[(7,) * 3, (200,) * 3]]


def test_cmyk_jpeg_becomes_the_colours_its_inks_mean() -> None:
    meanings = {
        (0, 0, 0, 0): (255, 255, 255),
        (0, 0, 0, 255): (0, 0, 0),
        (0, 255, 255, 0): (255, 0, 0),
        (255, 0, 255, 0): (0, 255, 0),
        (255, 0, 0, 0): (0, 255, 255),
    }
    for inks, expected in meanings.items():
        data = encoded(Image.new("CMYK", (16, 16), inks), "JPEG", quality=100)
        found = np.asarray(open_image(data)).astype(int)
        assert np.abs(found - expected).max() <= 3, inks


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_carried_out(orientation: int) -> None:
    """What the camera saw, turned and mirrored as EXIF says it was stored, comes back upright."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)
    upright[8:, 24:] = (0, 0, 255)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert (np.asarray(open_image(data)) == upright).all()


def test_a_picture_with_previews_behind_it_is_its_first_frame() -> None:
    first, preview = Image.new("RGB", (32, 16), (200, 0, 0)), Image.new("RGB", (8, 8))
    image = open_image(encoded(first, "MPO", save_all=True, append_images=[preview]))
    assert image.size == (32, 16)


# ---------------------------------------------------------------------------------------------- refusals


def good() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), "PNG")


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), (i * 80, 0, 0)) for i in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def refused() -> dict[str, tuple[bytes, str]]:
    jpeg = encoded(Image.open(io.BytesIO(good())), "JPEG")
    floats = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    wide = encoded(Image.fromarray(np.full((4, 4), 10**6, np.int32)), "TIFF")
    return {
        "empty": (b"", "the file is empty (0 bytes)"),
        "text": (b"this is no image", "not an image in a known format"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image in a known format"),
        "disguised EPS": (encoded(Image.new("RGB", (8, 8)), "EPS"), "not an image in a known format (PNG, JPEG,"),
        "ICO": (encoded(Image.new("RGB", (8, 8)), "ICO"), "not an image in a known format"),
        "JPEG 2000": (encoded(Image.new("RGB", (8, 8)), "JPEG2000"), "not an image in a known format"),
        "sound": (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not an image in a known format"),
        "words": (b"BMW 320d", "begins like BMP, but its header is damaged"),
        "header only": (good()[:20], "damaged"),
        "truncated PNG": (good()[: len(good()) // 2], "damaged or truncated"),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], "damaged or truncated: image file is truncated"),
        "zero width": (png(0, 4, 8, 0, b""), "zero-sized (0 x 4 pixels)"),
        "zero GIF": (b"GIF89a" + bytes(7) + b";", "zero-sized (0 x 0 pixels)"),
        "animated GIF": (animation("GIF"), "animated or of several pages (3 frames)"),
        "animated WebP": (animation("WEBP"), "animated or of several pages (3 frames)"),
        "animated PNG": (animation("PNG"), "animated or of several pages (3 frames)"),
        "TIFF of pages": (animation("TIFF"), "animated or of several pages (3 frames)"),
        "over-large": (png(7000, 6000, 8, 0, b"\x00"), "over-large: 7000 x 6000 pixels; the limit is 40000000 pixels"),
        "bomb": (png(50000, 50000, 8, 0, b"\x00"), "over-large (a decompression bomb); the limit is 40000000 pixels"),
        "float": (floats, "floating-point pixels have no agreed white"),
        "32-bit": (wide, "32-bit pixels (from 1000000 to 1000000) have no agreed white"),
    }


@pytest.mark.parametrize("kind", sorted(refused()))
def test_what_cannot_be_used_is_refused_by_name_with_the_reason(kind: str, recwarn: pytest.WarningsRecorder) -> None:
    data, reason = refused()[kind]
    with pytest.raises(ImageError) as caught:
        open_image(data, name="photo-7")
    assert str(caught.value).startswith("photo-7: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(recwarn), "the message is the only word about it"


def test_the_content_says_what_a_file_is_and_only_that_decoder_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would try all formats it knows, EPS by Ghostscript among them, whatever the file is called."""
    tried: list[str] = []
    open_ = Image.open

    def listening(file: object, mode: str = "r", formats: tuple[str, ...] | None = None) -> Image.Image:
        assert formats is not None, "all formats"
        tried.extend(formats)
        return open_(file, mode, formats)  # type: ignore[arg-type]

    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "EPS", "PSD"):
        data = encoded(Image.new("RGB", (8, 8)), kind) if kind != "PSD" else b"8BPS\x00\x01" + bytes(40)
        (tmp_path / f"{kind}.png").write_bytes(data)
    monkeypatch.setattr(Image, "open", listening)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        assert open_image(tmp_path / f"{kind}.png").size == (8, 8)
    for kind in ("EPS", "PSD"):
        with pytest.raises(ImageError, match=f"{kind}.png: not an image in a known format"):
            open_image(tmp_path / f"{kind}.png")
    assert tried == ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"]


def test_dicom_is_for_the_readers_that_know_its_windows() -> None:
    with pytest.raises(ImageError, match=r"scan: is DICOM, which is read in folders of images"):
        open_image(bytes(128) + b"DICM" + bytes(40), name="scan")


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(good())
    assert open_image(path, max_pixels=64 * 64).size == (64, 64)
    with pytest.raises(
        ImageError, match=r"a.png: over-large: 64 x 64 pixels; the limit is 4095 pixels in all; save it"
    ):
        open_image(path, max_pixels=64 * 64 - 1)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nothing\.png: no such file"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)


@given(st.integers(0, 6000), st.binary(min_size=1, max_size=8))
def test_damaged_bytes_give_pixels_or_one_refusal(at: int, patch: bytes) -> None:
    data = encoded(Image.new("P", (40, 40), 3), "GIF") if at % 2 else good()
    at %= len(data)
    try:
        image = open_image(data[:at] + patch + data[at + len(patch) :])
    except ImageError:
        return
    assert image.mode == "RGB"


# ---------------------------------------------------------------------------------------------- image store


def test_put_and_get_by_content(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    image = Image.open(io.BytesIO(good()))
    sha = store.put(image)
    assert store.path(sha).name == f"{sha}.png"
    assert hashlib.sha256(store.path(sha).read_bytes()).hexdigest() == sha
    assert (np.asarray(store.get(sha)) == np.asarray(image)).all()
    image.info["comment"] = "metadata does not make it another image"
    assert store.put(image) == sha
    assert store.put(Image.new("RGB", (64, 64))) != sha
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_a_picture_put_again_is_written_again_when_it_has_gone_or_was_cut_short(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    picture = Image.new("RGB", (5, 4), (9, 8, 7))
    sha = store.put(picture)
    whole = store.path(sha).read_bytes()
    store.path(sha).unlink()
    assert store.put(picture) == sha
    assert store.path(sha).read_bytes() == whole
    store.path(sha).write_bytes(whole[:10])
    assert store.put(picture.copy()) == sha
    assert store.path(sha).read_bytes() == whole
    picture.putpixel((0, 0), (0, 0, 0))  # the same object shows something else now
    assert store.put(picture) != sha
    assert store.put(picture.resize((4, 5))) == store.put(
        Image.frombytes("RGB", (4, 5), picture.resize((4, 5)).tobytes())
    )


def test_the_store_refuses_other_modes_missing_and_changed_images(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    with pytest.raises(ValueError, match="holds RGB images, not RGBA"):
        store.put(Image.new("RGBA", (4, 4)))
    with pytest.raises(ImageError, match=r"is missing; delete .*images too"):
        store.get("0" * 64)
    sha = store.put(Image.new("RGB", (4, 4)))
    store.path(sha).write_bytes(store.path(sha).read_bytes() + b"x")
    with pytest.raises(ImageError, match="bytes have changed"):
        store.get(sha)
    assert store.put(Image.new("RGB", (4, 4))) == sha
    assert store.get(sha).size == (4, 4), "put mends what was cut short or added to"


def test_many_threads_may_put_the_same_image(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    image = Image.open(io.BytesIO(good()))
    image.load()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(store.put(image) for _ in range(20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{found[0]}.png"]


# ---------------------------------------------------------------------------------------------- samples


def full(index: int) -> Sample:
    return Sample.model_validate(
        {
            "id": f"s{index}",
            "source": "test",
            "split": "val",
            "task": "reading",
            "language": "zh",
            "images": ["a" * 64, "b" * 64],
            "messages": [user("这是什么？", images=2), assistant("机油压力 \\boxed{7}")],
            "answer": "7",
            "aliases": ["seven"],
            "labels": [Label(axis="domain", l1="vehicle", score=0.1)],
            "votes": [Vote(judge="rules", score=None)],
            "density": {"ocr": 1 / 3},
            "rejected": [assistant("8")],
            "scene": {"objects": [{"colour": "red", "row": 0}], "none": None},
            "unknown_to_us": {"kept": [1, 2.5, "x"]},
        }
    )


def test_samples_come_back_as_they_were_with_what_nobody_knows(tmp_path: Path) -> None:
    samples = [full(0), Sample(id="bare", source="x", task="t"), full(2)]
    assert write_samples(tmp_path / "s.parquet", iter(samples)) == 3
    assert read_samples(tmp_path / "s.parquet") == samples
    assert read_samples(tmp_path / "s.parquet")[0].model_extra == {"unknown_to_us": {"kept": [1, 2.5, "x"]}}


def test_columns_for_other_tools(tmp_path: Path) -> None:
    write_samples(tmp_path / "s.parquet", [full(0)])
    (row,) = pq.read_table(tmp_path / "s.parquet").drop_columns(["record"]).to_pylist()
    assert row == {
        "id": "s0", "source": "test", "split": "val", "task": "reading", "language": "zh",
        "images": ["a" * 64, "b" * 64], "question": "这是什么？", "response": "机油压力 \\boxed{7}", "answer": "7",
        "aliases": ["seven"],
    }  # fmt: skip


def test_the_same_samples_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    samples = [full(index) for index in range(2500)]
    write_samples(tmp_path / "a.parquet", samples)
    code = (
        "import sys; from pathlib import Path; from open4ov.store import *; "
        "write_samples(Path(sys.argv[2]), read_samples(Path(sys.argv[1])))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    subprocess.run(command, env=environment, check=True)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_no_samples_are_a_file_too(tmp_path: Path) -> None:
    assert write_samples(tmp_path / "s.parquet", []) == 0
    assert read_samples(tmp_path / "s.parquet") == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([full(0), full(0)], "two samples have the id s0"),
        ([full(1), full(0).model_copy(update={"pass_rate": float("nan")})], "sample s0 cannot be stored as JSON"),
        ([full(0).model_copy(update={"extra": {"x": {1, 2}}})], "sample s0 cannot be stored as JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_the_former_file_stays(
    tmp_path: Path, bad: list[Sample], message: str
) -> None:
    write_samples(tmp_path / "s.parquet", [full(9)])
    with pytest.raises(ValueError, match=message):
        write_samples(tmp_path / "s.parquet", bad)
    assert read_samples(tmp_path / "s.parquet") == [full(9)]
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


def test_files_that_hold_no_samples(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_samples(tmp_path / "nothing.parquet")
    write_samples(tmp_path / "s.parquet", [full(0)])
    whole = (tmp_path / "s.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    pq.write_table(pq.read_table(tmp_path / "s.parquet").select(["id"]), tmp_path / "other.parquet")
    for name in ("cut.parquet", "other.parquet"):
        with pytest.raises(UserError, match=f"{name}: not a readable Parquet file of samples"):
            read_samples(tmp_path / name)


def test_atomic_leaves_nothing_of_a_failure(tmp_path: Path) -> None:
    target = tmp_path / "a" / "x"
    with pytest.raises(RuntimeError), atomic(target) as temporary:  # noqa: PT012 - the write is what fails half way
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert list(target.parent.iterdir()) == []
    with atomic(target) as temporary:
        temporary.write_text("whole")
    assert target.read_text() == "whole"


def test_what_a_kill_left_half_written_goes_files_and_folders(tmp_path: Path) -> None:
    """A checkpoint is half-written as a folder."""
    kept = tmp_path / "checkpoints" / "step-1" / "record.json"
    half = tmp_path / "checkpoints" / ".part-2" / "model" / ".part-9-0-x"
    for path in (kept, half, tmp_path / ".part-7-0-y"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    sweep(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]
    assert not (tmp_path / "checkpoints" / ".part-2").exists()


def test_an_order_to_train_in_has_samples_again(tmp_path: Path) -> None:
    samples = [Sample(id=name, source="t", task="t") for name in ("a", "b", "a")]
    assert write_samples(tmp_path / "order.parquet", samples, again=True) == 3
    assert read_samples(tmp_path / "order.parquet") == samples
    with pytest.raises(ValueError, match="two samples have the id a"):
        write_samples(tmp_path / "set.parquet", samples)
