"""Are evaluation pictures found again in training data? Run `python -m bench.decontaminate FOLDER...`.

Half of the pictures of the folders stand for an evaluation set; the training data are altered copies of them, and the
other half altered likewise, which must not be found. Pictures that show the same to begin with (a wallpaper in two
sizes) count as wrongly found: look at the list that is printed.
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from bench.measure import machine, write
from open4ov.data import hashing
from open4ov.data.copies import Gallery
from open4ov.images import ImageError, open_image

LEAST_SIDE = 0.6
"""What a crop keeps of each side, at least."""


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    image.save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def crop(image: Image.Image, rng: random.Random, least: float = LEAST_SIDE) -> Image.Image:
    width, height = (int(side * rng.uniform(least, 0.95)) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def variants(image: Image.Image, rng: random.Random) -> Iterator[tuple[str, Image.Image]]:
    """A picture as it comes back in other people's data: (what was done, the picture)."""
    yield "copy", image
    yield "JPEG of quality 20 to 75", jpeg(image, rng.choice((20, 30, 50, 75)))
    scale = rng.choice((0.25, 0.5, 1.5))
    width, height = (max(32, int(side * scale * rng.uniform(0.95, 1.05))) for side in image.size)
    yield "resized", image.resize((width, height))
    tinted = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
    tinted = ImageEnhance.Color(tinted).enhance(rng.uniform(0.5, 1.5))
    yield "brightness, colour, contrast", ImageEnhance.Contrast(tinted).enhance(rng.uniform(0.8, 1.2))
    yield "mirrored", image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    yield "crop", crop(image, rng)
    yield "crop, resized, JPEG 40", jpeg(crop(image, rng).resize((200, 150)), 40)


@dataclass
class Outcome:
    """`found` of `planted` by kind; `wrong`: (query, known) pairs that should not be; seconds for `queries`."""

    found: Counter[str]
    planted: Counter[str]
    wrong: list[tuple[str, str]]
    queries: int
    seconds: float

    @property
    def recall(self) -> float:
        return self.found.total() / self.planted.total()

    @property
    def precision(self) -> float:
        return self.found.total() / (self.found.total() + len(self.wrong))


def measure(known: Sequence[tuple[str, Image.Image]], others: Sequence[tuple[str, Image.Image]]) -> Outcome:
    """Plants variants of the known pictures among variants of the others."""
    rng = random.Random(0)
    gallery = Gallery(np.stack([hashing.thumbnail(image) for _, image in known]))
    thumbnails: list[NDArray[np.uint8]] = []
    truth: list[tuple[int, str, str]] = []
    for number, (name, image) in enumerate([*known, *others]):
        for kind, altered in variants(image, rng):
            thumbnails.append(hashing.thumbnail(altered))
            truth.append((number, kind, name))
    began = time.perf_counter()
    hits = gallery.find(np.stack(thumbnails))
    seconds = time.perf_counter() - began
    found: Counter[str] = Counter()
    wrong: list[tuple[str, str]] = []
    for hit in hits:
        number, kind, name = truth[hit.query]
        if number == hit.known:
            found[kind] += 1
        else:
            wrong.append((f"{name} ({kind})", f"{known[hit.known][0]} as {hit.kind}, {hit.likeness}"))
    planted = Counter(kind for number, kind, _ in truth if number < len(known))
    return Outcome(found, planted, wrong, len(thumbnails), seconds)


def pictures(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}:
            try:
                image = open_image(file)
            except ImageError:
                continue
            image.thumbnail((1024, 1024))
            if np.asarray(image).std(axis=(0, 1)).max() > 8:  # plain ones show nothing to be found again
                yield file.name, image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    everything = [picture for folder in options.folders for picture in pictures(folder)]
    outcome = measure(everything[::2], everything[1::2])
    lines = ["| Altered by | found | of |", "|---|---|---|"]
    lines += [f"| {kind} | {outcome.found[kind]} | {count} |" for kind, count in outcome.planted.items()]
    lines += [
        "",
        f"{len(everything)} pictures, half of them known. Recall {outcome.recall:.4f}, precision "
        f"{outcome.precision:.4f} ({len(outcome.wrong)} wrong); {1e3 * outcome.seconds / outcome.queries:.1f} ms a "
        "picture looked up, one thread.",
        "",
        *(f"- {query}: {known}" for query, known in outcome.wrong),
    ]
    text = f"# Evaluation pictures found again\n\n{machine()}\n" + "\n".join(lines) + "\n"
    print(text)
    print(write("decontaminate", text))


if __name__ == "__main__":
    main()
