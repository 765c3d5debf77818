"""The samples and models of `python -m bench.sft`: pictures of mixed size, answers that spread 1:8 in length.

A picture is a board of coloured squares of 32 pixels, 3 to 14 on a side (96 to 448 pixels, every aspect ratio that this
allows). The question asks for the colours of some squares; the answer has a sentence for each, 2 to 16 of them, so that
it cannot be given without the picture. Sides are drawn evenly, the number of sentences on a logarithmic scale:
short answers are common and long ones rare, as in data that people train on. A picture has one question, or several.

A folder holds pictures/, train.json and held_out.json: [{"image": file, "question": text, "answer": text}].
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image

from bench.steps import NANO, middle
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import Sample, assistant, user
from open4ov.sft.ordering import by_picture
from open4ov.store import ImageStore

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 210, 40),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "orange": (245, 140, 30),
    "purple": (140, 50, 170),
}
SIDE = 32
LEAST, MOST = 3, 14
"""Squares on a side of the board"""
SENTENCES = 2, 16
MODELS = ("nano", "60M")


def make(folder: Path, train: int, held_out: int, seed: int = 0, each: int = 1) -> None:
    """Writes the pictures and the two lists of so many samples, `each` of them about every picture."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for name, count in (("train", train), ("held_out", held_out)):
        files = [f"pictures/{name}-{number}.png" for number in range(-(-count // each))]
        rows = [row for file in files for row in _samples(rng, folder, file, each)]
        (folder / f"{name}.json").write_text(json.dumps(rows[:count], indent=1))


def _samples(rng: random.Random, folder: Path, file: str, each: int) -> list[dict[str, str]]:
    rows, columns = rng.randint(LEAST, MOST), rng.randint(LEAST, MOST)
    board = [[rng.choice(list(COLOURS)) for _ in range(columns)] for _ in range(rows)]
    small = np.array([[COLOURS[colour] for colour in line] for line in board], dtype=np.uint8)
    Image.fromarray(small.repeat(SIDE, axis=0).repeat(SIDE, axis=1)).save(folder / file)
    return [_question(rng, file, board) for _ in range(each)]


def _question(rng: random.Random, file: str, board: list[list[str]]) -> dict[str, str]:
    rows, columns = len(board), len(board[0])
    low, high = (math.log(number) for number in SENTENCES)
    wanted = min(round(math.exp(rng.uniform(low, high))), rows * columns)
    places = sorted(rng.sample([(r, c) for r in range(rows) for c in range(columns)], wanted))
    answer = " ".join(f"The square in row {r + 1}, column {c + 1} is {board[r][c]}." for r, c in places)
    return {"image": file, "question": f"Name the colours of {wanted} squares of this board.", "answer": answer}


def build(kind: str, folder: Path) -> Path:
    """The model `kind` in a folder of its own, for both sides: nano as it ships, or 60 M of the same shape at random.
    Both read pictures of up to 448 x 448 pixels as they are."""
    target = folder / kind
    shipped = Qwen3VL.from_pretrained(NANO)
    model = shipped if kind == "nano" else Qwen3VL(middle(shipped.config), seed=1)
    model.save_pretrained(target)
    Processor.from_pretrained(NANO).save_pretrained(target)
    for file in ("preprocessor_config.json", "processor_config.json"):
        if (NANO / file).exists():
            settings = json.loads((NANO / file).read_text())
            settings["size"] = {"shortest_edge": SIDE**2, "longest_edge": (MOST * SIDE) ** 2}
            (target / file).write_text(json.dumps(settings, indent=1))
    return target


def read(folder: Path, name: str, store: ImageStore) -> list[Sample]:
    """The samples of `name` (train or held_out) as the house has them; their pictures go into `store`."""
    samples: list[Sample] = []
    for number, row in enumerate(json.loads((folder / f"{name}.json").read_text())):
        with Image.open(folder / row["image"]) as image:
            sha = store.put(image.convert("RGB"))
        messages = [user(row["question"], 1), assistant(row["answer"])]
        samples.append(Sample(id=f"{name}-{number}", source="bench", task="vqa", images=[sha], messages=messages))
    return samples


def repeated(samples: list[Sample], epochs: int, seed: int = 0) -> list[Sample]:
    """The samples `epochs` times, each time in another order; questions about a picture stand together, as with
    `sft.gather_pictures`."""
    return [sample for epoch in range(epochs) for sample in by_picture(samples, f"{seed} {epoch}")]
