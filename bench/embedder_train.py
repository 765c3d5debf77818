"""Trains the shipped embedder: `python -m bench.embedder_train FOLDER [--leave-out FOLDER] [--out DIR]`.

FOLDER holds the sources (bench/embedder_sources.py says which, and renders them). Writes `model.safetensors` and
`pictures.parquet` (each picture's source, group, split and difference hash). Features of pictures are kept in FOLDER,
so that a second training takes minutes. Seeds are fixed: the same sources give the same weights on the same machine.

Splits by group (a drawing's variants, an emoji's drawings by both vendors): a tenth is test, a tenth is validation.
Of those, what lies within 6 of 64 bits of a picture trained on is left out.

The loss is contrastive and symmetric: a picture and a text drawn from its name, keywords and place, against all others
of the batch (texts that say the same are no negatives); and pairs of texts that mean alike, from WordNet, from the
two languages, and from names and keywords of pictures trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from bench import embedder_sources as sources
from open4ov.corpora.shapes_vendor import difference_hash
from open4ov.data import hashing
from open4ov.images import ImageError, open_image
from open4ov.mllm import picture_features
from open4ov.mllm.towers import FOLDER, buckets

SEED = 20_261_126
AT_MOST = 1
"""Icons of one group (variants of one another)"""
FEATURES = "features.npz"
"""Kept for bench/embedder.py"""
PART = 256
"""Pictures whose features are computed and kept together"""
NEAR = 6
WIDTH, HIDDEN, BUCKETS = 96, 256, 12_288
BATCH, WORDS = 384, 256
"""Pictures and pairs of texts of a step"""


def split_of(group: str) -> str:
    tenth = hashlib.sha256(f"embedder/{group}".encode()).digest()[0] % 10
    return "test" if tenth == 0 else "val" if tenth == 1 else "train"


@dataclass
class Look:
    """What is made of a drawing: the picture trained on, its hashes, and whether it looks like a vertical's."""

    image: Image.Image
    bits: NDArray[np.bool_]
    print: int
    alike: bool


def collect(folder: Path, leave_out: list[Path]) -> tuple[list[sources.Drawing], NDArray[np.float32], dict[str, Any]]:
    """Drawings, their features [drawings, F] and facts of them."""
    found: list[sources.Drawing] = []
    seen: Counter[str] = Counter()
    for drawing in sources.drawings(folder):
        seen[drawing.group] += 1
        if drawing.source != "mdi" or seen[drawing.group] <= AT_MOST:
            found.append(drawing)
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        looks = list(pool.map(_look, found, [folder] * len(found), chunksize=200))
        foreign = [path for place in leave_out for path in sorted(place.rglob("*")) if path.is_file()]
        held = [one for one in pool.map(_foreign, foreign, chunksize=20) if one is not None]
    alike = sum(look is not None and look.alike for look in looks)
    pairs = [(drawing, look) for drawing, look in zip(found, looks, strict=True) if look is not None and not look.alike]
    drawings = [drawing for drawing, _ in pairs]
    print(f"{len(drawings)} drawings, {alike} look like a vertical's, {len(held)} to be left out", flush=True)
    names = [f"{one.source}/{one.id}" for one in drawings]
    rows = _features([look.image for _, look in pairs], folder / "features", names)
    np.savez(folder / FEATURES, names=np.array(names), rows=rows)
    facts = {
        "bits": np.stack([look.bits for _, look in pairs]),
        "prints": np.array([look.print for _, look in pairs], np.uint64),
        "held": np.array(held, np.uint64),
    }
    return drawings, rows, facts


def _look(drawing: sources.Drawing, folder: Path) -> Look | None:
    picture = sources.picture(drawing, folder)
    if picture is None or picture.getchannel("A").getextrema()[1] < 128:
        return None
    image = shown(drawing, picture)
    alike = sources.looks_like_a_vertical(picture)
    return Look(image, difference_hash(sources.board(picture)), _print(image), alike)


def _foreign(path: Path) -> int | None:
    try:
        return _print(open_image(path).convert("RGB"))
    except ImageError:  # whatever is no picture
        return None


def _features(images: list[Image.Image], kept: Path, names: list[str]) -> NDArray[np.float32]:
    """[N, F]; parts are kept in a folder as they are ready."""
    kept.mkdir(exist_ok=True)
    parts = range(0, len(images), PART)
    jobs = []
    for start in parts:
        name = hashlib.sha256("\n".join(names[start : start + PART]).encode()).hexdigest()[:16]
        jobs.append((kept / f"{name}.npy", images[start : start + PART]))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = []
        for number, part in enumerate(pool.map(_part, jobs)):
            found.append(part)
            print(f"features of part {number + 1} of {len(jobs)}", flush=True)
    return np.concatenate(found)


def _part(job: tuple[Path, list[Image.Image]]) -> NDArray[np.float32]:
    path, images = job
    if not path.exists():
        torch.set_num_threads(1)
        np.save(path, picture_features.features(images))
    return np.load(path)


def _print(image: Image.Image) -> int:
    return hashing.phash(picture_features.square(image))


def shown(drawing: sources.Drawing, picture: Image.Image) -> Image.Image:
    """A drawing as it is trained on: an icon in some colour, others on white or on some ground."""
    rng = random.Random(f"{SEED}/{drawing.source}/{drawing.id}")
    if drawing.source == "mdi" or rng.random() < 0.5:
        return sources.coloured(picture, drawing.source == "mdi", f"{SEED}/{drawing.id}")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture.convert("RGB"), (0, 0), picture.getchannel("A"))
    return white


def splits(drawings: list[sources.Drawing], facts: dict[str, Any]) -> list[str]:
    """The split of each drawing; "" for what is in none: near-duplicates of pictures trained on, or left out."""
    found = [split_of(drawing.group) for drawing in drawings]
    train = facts["prints"][[split == "train" for split in found]]
    for number, one in enumerate(facts["prints"]):
        if (found[number] != "train" and _near(one, train)) or _near(one, facts["held"]):
            found[number] = ""
    return found


def _near(one: np.uint64, others: NDArray[np.uint64]) -> bool:
    return bool((np.bitwise_count(others ^ one) <= NEAR).any())


class Model(torch.nn.Module):
    """What `towers.Towers` computes, to be trained."""

    def __init__(self, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> None:
        super().__init__()
        width = len(mean)
        self.table = torch.nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum")
        torch.nn.init.normal_(self.table.weight, std=0.05)
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(scale))
        self.into = torch.nn.Linear(width, HIDDEN)
        self.out = torch.nn.Linear(HIDDEN, WIDTH, bias=False)
        self.skip = torch.nn.Linear(width, WIDTH, bias=False)
        self.drop = torch.nn.Dropout(0.2)
        self.temperature = torch.nn.Parameter(torch.tensor(2.7))

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        x = self.drop((rows - self.mean) * self.scale)
        return F.normalize(self.out(self.drop(F.silu(self.into(x)))) + self.skip(x), dim=-1)

    def texts(self, texts: list[str]) -> torch.Tensor:
        found = [buckets(text, BUCKETS) for text in texts]
        offsets = np.cumsum([0, *(len(places) for places, _ in found[:-1])])
        places = torch.from_numpy(np.concatenate([places for places, _ in found]))
        counts = torch.from_numpy(np.concatenate([counts for _, counts in found]))
        return F.normalize(self.table(places, torch.from_numpy(offsets), counts), dim=-1)

    def weights(self) -> dict[str, NDArray[Any]]:
        found = {"text.table": self.table.weight, "image.mean": self.mean, "image.scale": self.scale,
                 "image.in": self.into.weight, "image.in_bias": self.into.bias, "image.out": self.out.weight,
                 "image.skip": self.skip.weight}  # fmt: skip
        return {
            name: value.detach().numpy().astype(np.float32 if name in ("image.mean", "image.scale") else np.float16)
            for name, value in found.items()
        }


def text_of(drawing: sources.Drawing, rng: random.Random) -> str:
    """One of the things that may be said of a drawing."""
    names = drawing.zh if drawing.zh and rng.random() < 0.35 else drawing.en
    draw = rng.random()
    if draw < 0.4:
        return names[0]
    if draw < 0.6 and len(names) > 1:
        return rng.choice(names[1:])
    some = rng.sample(names, min(len(names), rng.randint(1, 4)))
    if drawing.place and names is drawing.en and rng.random() < 0.5:
        some.append(drawing.place)
        if rng.random() < 0.3:
            return drawing.place
    return " ".join(some)


def contrast(one: torch.Tensor, other: torch.Tensor, temperature: torch.Tensor, said: list[str]) -> torch.Tensor:
    """InfoNCE both ways; rows whose text is the same are no negatives of one another."""
    scores = one @ other.T * temperature.exp()
    codes = torch.tensor([hash(text) for text in said])
    same = (codes[:, None] == codes[None]) & ~torch.eye(len(said), dtype=torch.bool)
    scores = scores.masked_fill(same, -1e4)
    target = torch.arange(len(said))
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def train(
    drawings: list[sources.Drawing], rows: NDArray[np.float32], pairs: list[tuple[str, str]], steps: int
) -> Model:
    """On these drawings only; `pairs` are texts that mean alike."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    mean, scale = rows.mean(axis=0), 1 / (rows.std(axis=0) + 0.05 * rows.std())
    model = Model(mean, scale.astype(np.float32))
    texts = [(one, other) for drawing in drawings for one in drawing.en[:1] for other in (*drawing.en[1:], *drawing.zh)]
    optimizer = torch.optim.AdamW(
        [{"params": model.table.parameters(), "lr": 4e-3, "weight_decay": 0.0},
         {"params": [*model.into.parameters(), *model.out.parameters(), *model.skip.parameters()], "lr": 1e-3,
          "weight_decay": 0.1},
         {"params": [model.temperature], "lr": 1e-3, "weight_decay": 0.0}])  # fmt: skip
    rates = [group["lr"] for group in optimizer.param_groups]
    weights = [1.0 if drawing.source != "mdi" else 0.6 for drawing in drawings]
    features = torch.from_numpy(rows)
    began = time.time()
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - step / steps)
        chosen = rng.choices(range(len(drawings)), weights, k=BATCH)
        said = [text_of(drawings[number], rng) for number in chosen]
        seen = features[chosen]
        loss = contrast(model.images(seen), model.texts(said), model.temperature, said)
        both = [*rng.sample(pairs, WORDS // 2), *rng.sample(texts, WORDS // 2)]
        ones, others = [one for one, _ in both], [other for _, other in both]
        loss = loss + 0.5 * contrast(model.texts(ones), model.texts(others), model.temperature, others)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}, loss {loss.item():.3f}, {time.time() - began:.0f} s", flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--leave-out", type=Path, action="append", default=[], help="pictures never to train on")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=700)
    options = parser.parse_args()
    drawings, rows, facts = collect(options.folder, options.leave_out)
    found = splits(drawings, facts)
    part = [number for number, split in enumerate(found) if split == "train"]
    pairs = list(sources.wordnet(options.folder))
    print(f"{len(part)} drawings and {len(pairs)} pairs of texts to train on", flush=True)
    model = train([drawings[number] for number in part], rows[part], pairs, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(model.weights(), options.out / "model.safetensors")
    pq.write_table(
        pa.table({
            "source": [drawing.source for drawing in drawings],
            "id": [drawing.id for drawing in drawings],
            "split": found,
            "said": [drawing.said for drawing in drawings],
            "phash": facts["prints"],
            "difference_hash": [np.packbits(bits).tobytes() for bits in facts["bits"]],
        }),
        options.out / "pictures.parquet",
        compression="zstd",
    )  # fmt: skip


if __name__ == "__main__":
    main()
