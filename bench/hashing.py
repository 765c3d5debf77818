"""Perceptual hashing side by side with the `imagehash` package: `python -m bench.hashing`.

Both are handed the same decoded RGB pictures; decoding is timed apart. imagehash is no dependency of this project: run
this with a Python that has both (PYTHONPATH=src and a virtual environment with imagehash, numpy and Pillow).
"""

from __future__ import annotations

import argparse
import io
import platform
from collections.abc import Sequence
from pathlib import Path

import imagehash  # pyright: ignore[reportMissingImports]
import numpy as np
from PIL import Image

from bench.measure import in_turn, machine, ratio, write
from open4ov.data import hashing

SIZES = ((224, 224), (320, 240), (448, 448), (640, 480), (1280, 960), (2048, 1536))


def pictures(source: Image.Image, size: tuple[int, int], count: int) -> list[Image.Image]:
    """Different views of one photograph, at a size."""
    rng = np.random.default_rng(0)
    made: list[Image.Image] = []
    for _ in range(count):
        left, top = rng.integers(0, source.width // 3), rng.integers(0, source.height // 3)
        made.append(source.crop((left, top, left + source.width // 2, top + source.height // 2)).resize(size))
    return made


def ours(images: Sequence[Image.Image]) -> object:
    return hashing.prints(np.stack([hashing.thumbnail(image) for image in images]))


def theirs(images: Sequence[Image.Image]) -> object:
    return [imagehash.phash(image) for image in images]


def decoded(files: Sequence[bytes]) -> object:
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path, help="a photograph, for instance matplotlib's sample_data/grace_hopper.jpg")
    parser.add_argument("--count", type=int, default=32, help="pictures of each size")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    source = Image.open(options.photo).convert("RGB")
    lines = [
        "| Pixels | imagehash.phash, ms | ours (hash, mirrored, colours), ms | times as fast | decoding JPEG, ms |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        images = pictures(source, size, options.count)
        files: list[bytes] = []
        for image in images:
            image.save(buffer := io.BytesIO(), "JPEG", quality=90)
            files.append(buffer.getvalue())
        times = in_turn(
            {
                "theirs": lambda images=images: theirs(images),
                "ours": lambda images=images: ours(images),
                "decoding": lambda files=files: decoded(files),
            },
            options.rounds,
        )
        each = {name: f"{1e3 * float(np.median(seconds)) / options.count:.3f}" for name, seconds in times.items()}
        faster = ratio(times["theirs"], times["ours"])
        lines.append(f"| {size[0]} x {size[1]} | {each['theirs']} | {each['ours']} | {faster} | {each['decoding']} |")
    about = f"- imagehash {imagehash.__version__}, Pillow {Image.__version__}, Python {platform.python_version()}\n"  # pyright: ignore
    text = f"# Perceptual hashing of decoded pictures\n\n{machine()}{about}\nOne thread.\n\n" + "\n".join(lines) + "\n"
    print(text)
    print(write("hashing", text))


if __name__ == "__main__":
    main()
