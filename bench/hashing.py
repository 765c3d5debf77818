"""Perceptual hashing side by side with the `imagehash` package: `python -m bench.hashing`.

Both are handed the same decoded RGB pictures; decoding is timed apart. Once in CPU time, which other load on the
machine changes little, and once by the clock on the wall. imagehash is no dependency of this project: install it beside
(`pip install --target FOLDER ImageHash scipy PyWavelets`, all `--no-deps`) and run with PYTHONPATH=src:FOLDER.
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import imagehash  # pyright: ignore[reportMissingImports]
import numpy as np
from PIL import Image

from bench.measure import in_turn, machine, ratio, write
from open4ov.data import hashing

SIZES = ((128, 128), (224, 224), (320, 240), (448, 448), (640, 480), (1280, 960), (2048, 1536))


def pictures(source: Image.Image, size: tuple[int, int], count: int) -> list[Image.Image]:
    """Different views of one photograph, at a size."""
    rng = np.random.default_rng(0)
    made: list[Image.Image] = []
    for _ in range(count):
        left, top = (int(rng.integers(0, side // 3)) for side in source.size)
        made.append(source.crop((left, top, left + source.width // 2, top + source.height // 2)).resize(size))
    return made


def full(images: Sequence[Image.Image]) -> object:
    """What a data set keeps of a picture: hash, hash of the mirror image, colours."""
    return hashing.prints(np.stack([hashing.thumbnail(image) for image in images]))


def alone(images: Sequence[Image.Image]) -> object:
    """The same work as imagehash.phash: one hash of each picture."""
    return hashing.hashes(np.stack([hashing.thumbnail(image) for image in images]))


def theirs(images: Sequence[Image.Image]) -> object:
    return [imagehash.phash(image) for image in images]


def decoded(files: Sequence[bytes]) -> object:
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in files]


def encoded(image: Image.Image) -> bytes:
    image.save(buffer := io.BytesIO(), "JPEG", quality=90)
    return buffer.getvalue()


def table(source: Image.Image, count: int, rounds: int, clock: Callable[[], float]) -> list[str]:
    """Lines of Markdown: a row for each size."""
    lines = [
        "| Pixels | imagehash.phash, ms | our hash alone, ms | times as fast | with mirrored and colours, ms | "
        "times as fast | decoding JPEG, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        images = pictures(source, size, count)
        contestants = {"theirs": theirs, "alone": alone, "full": full}
        times = in_turn({name: partial(run, images) for name, run in contestants.items()}, rounds, clock=clock)
        files = [encoded(image) for image in images]
        times |= in_turn({"decoding": partial(decoded, files)}, 3, warmup=1, clock=clock)
        each = {name: f"{1e3 * float(np.median(seconds)) / count:.3f}" for name, seconds in times.items()}
        faster = {name: ratio(times["theirs"], times[name]) for name in ("alone", "full")}
        lines.append(
            f"| {size[0]} x {size[1]} | {each['theirs']} | {each['alone']} | {faster['alone']} | {each['full']} | "
            f"{faster['full']} | {each['decoding']} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path, help="a photograph, for instance matplotlib's sample_data/grace_hopper.jpg")
    parser.add_argument("--count", type=int, default=16, help="pictures of each size")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    source = Image.open(options.photo).convert("RGB")
    clocks = {"CPU time": time.process_time, "Wall-clock time": time.perf_counter}
    parts = [
        f"## {name}\n\n" + "\n".join(table(source, options.count, options.rounds, clock)) + "\n"
        for name, clock in clocks.items()
    ]
    about = f"- imagehash {imagehash.__version__}, Pillow {Image.__version__}, Python {platform.python_version()}\n"  # pyright: ignore
    how = (
        f"One thread; in turn, medians of {options.rounds} rounds of {options.count} pictures, ratios with quartiles.\n"
    )
    text = f"# Perceptual hashing of decoded pictures\n\n{machine()}{about}\n{how}\n" + "\n".join(parts)
    print(text)
    print(write("hashing", text))


if __name__ == "__main__":
    main()
