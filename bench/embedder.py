"""How well the shipped embedder finds texts for pictures that it never saw. `python -m bench.embedder FOLDER`.

FOLDER holds the sources (bench/embedder_sources.py) and the features that bench/embedder_train.py left there. Recall
among the captions of the test split, by source, beside chance and beside what can be had without training: the caption
of the nearest training picture by the fixed features, compared as hashed n-grams. Coarse matching by folders
(bench/embedder_labels.py) with the threshold for `Others`, and fine matching of the demo's own pictures beside the
default embedder. `--calibrate` sets that threshold on the validation split and writes it beside the weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench import embedder_labels
from bench import embedder_sources as sources
from bench.embedder_train import FEATURES
from bench.measure import machine, write
from open4ov.corpora import in_car
from open4ov.data import labels, match, topics
from open4ov.mllm import Asker, Picture
from open4ov.mllm.catalog import CatalogProvider
from open4ov.mllm.embedder_rank import prototypes
from open4ov.mllm.embedders import ShippedEmbedder
from open4ov.mllm.embedding import embed_texts
from open4ov.mllm.towers import CALIBRATION, FOLDER, shipped, unit
from open4ov.recipe import DataSection

KS = (1, 5, 10)
KEPT = 0.9


def caption(drawing: sources.Drawing, language: str = "en") -> str:
    """Name and three keywords, in one language."""
    return " ".join((drawing.en if language == "en" else drawing.zh)[:4])


class Set:
    """The drawings of a split and their features, which training left in the folder."""

    def __init__(self, folder: Path, split: str, rows: dict[tuple[str, str], str]) -> None:
        self.drawings = [one for one in sources.drawings(folder) if rows.get((one.source, one.id)) == split]
        kept = np.load(folder / FEATURES)
        places = {name: number for number, name in enumerate(kept["names"].tolist())}
        self.features = kept["rows"][[places[f"{one.source}/{one.id}"] for one in self.drawings]]
        self.rows = shipped().pictures(self.features)


def recall(scores: Any, right: Any) -> list[float]:
    """Of scores [N, captions], the share whose right caption [N] is among the k best, ties counted against it."""
    place = (scores >= scores[np.arange(len(right)), right][:, None]).sum(axis=1)
    return [float((place <= k).mean()) for k in KS]


def retrieval(test: Set, train: Set) -> str:
    lines = ["| pictures | captions | what | R@1 | R@5 | R@10 |", "|---|---|---|---|---|---|"]
    scale = 1 / (train.features.std(axis=0) + 0.05 * train.features.std())
    mean = train.features.mean(axis=0)
    nearest = (unit((test.features - mean) * scale) @ unit((train.features - mean) * scale).T).argmax(axis=1)
    groups = [("all", None, "en"), *((name, name, "en") for name in ("openclipart", "mdi", "noto", "twemoji")),
              ("emoji, Chinese", "noto", "zh")]  # fmt: skip
    for name, source, language in groups:
        part = [n for n, one in enumerate(test.drawings)
                if source in (None, one.source) and caption(one, language)]  # fmt: skip
        texts = sorted({caption(test.drawings[n], language) for n in part})
        right = np.array([texts.index(caption(test.drawings[n], language)) for n in part])
        said = [caption(train.drawings[n], language) for n in nearest[part]]
        found = {
            "chance": [k / len(texts) for k in KS],
            "caption of the nearest training picture": recall(embed_texts(said) @ embed_texts(texts).T, right),
            "open4ov": recall(test.rows[part] @ shipped().texts(texts).T, right),
        }
        for what, shares in found.items():
            cells = " | ".join(f"{share:.1%}" for share in shares)
            lines.append(f"| {name} ({len(part)}) | {len(texts)} | {what} | {cells} |")
    return "\n".join(lines)


class Ranked:
    """The domain labels' scores of a split's pictures, and which labels fit them by their folders."""

    def __init__(self, part: Set) -> None:
        tree = labels.load()
        entries = match.request(Picture("", _no_pixels), tree, "").prompt.values["labels"]["domain"]
        tops, _ = prototypes(ShippedEmbedder(), entries)
        fitting = [embedder_labels.labels(one.source, one.place) for one in part.drawings]
        known = [number for number, one in enumerate(fitting) if one is not None]
        self.scores = part.rows[known] @ tops.T  # [pictures, labels]
        names = tree.names("domain")
        self.fits = np.array([[name in (fitting[number] or ()) for name in names] for number in known])

    def shares(self, others: float) -> tuple[float, float]:
        """Of pictures with a domain, those with a fitting label among the first three above Others; of pictures with
        none, those with no label above Others."""
        first = np.argsort(-self.scores, axis=1, kind="stable")[:, :3]
        above = np.take_along_axis(self.scores, first, axis=1) >= others
        good = (np.take_along_axis(self.fits, first, axis=1) & above).any(axis=1)
        some = self.fits.any(axis=1)
        return float(good[some].mean()), float((~above.any(axis=1))[~some].mean())


def _no_pixels() -> Any:
    raise AssertionError("rows are known")


def calibrate(val: Set) -> dict[str, Any]:
    """The threshold that leaves nine tenths of the pictures of a domain with a label above it."""
    ranked = Ranked(val)
    some = ranked.fits.any(axis=1)
    others = round(float(np.quantile(ranked.scores[some].max(axis=1), 1 - KEPT)), 3)
    right, empty = ranked.shares(others)
    return {
        "others": others,
        "how": "python -m bench.embedder FOLDER --calibrate, validation split: nine tenths of the pictures whose "
        "folder names a domain keep a label above it",
        "fitting label among three above": round(right, 4),
        "no label above, of pictures of no domain": round(empty, 4),
    }


def coarse(test: Set, others: float) -> str:
    ranked = Ranked(test)
    (right, empty), (free, _) = ranked.shares(others), ranked.shares(-1.0)
    some = ranked.fits.any(axis=1)
    chance = np.mean([1 - _none(ranked.fits.shape[1], int(count), 3) for count in ranked.fits[some].sum(axis=1)])
    return (
        "| what | share |\n|---|---|\n"
        f"| a fitting label among the first three above Others ({some.sum()} pictures) | {right:.1%} |\n"
        f"| the same without Others | {free:.1%} |\n"
        f"| the same by three labels at random, without Others | {chance:.1%} |\n"
        f"| no label above Others for pictures of no domain ({(~some).sum()}) | {empty:.1%} |"
    )


def _none(names: int, fitting: int, drawn: int) -> float:
    """The chance that none of the fitting labels is among those drawn."""
    share = 1.0
    for number in range(drawn):
        share *= max(0, names - fitting - number) / (names - number)
    return share


def demo() -> str:
    """The pictures of the demo's vertical, one of each symbol, among the topics that its catalog gives."""
    tree = labels.load()
    provider = CatalogProvider()
    asker = Asker(DataSection(), {"default": provider})
    found, _ = topics.generate(asker, tree, {"Automotive"}, set(tree.names("ability")))
    symbols = in_car.load()
    pictures = [Picture(one.id, lambda one=one: in_car.render(one, "train", 0, 0), in_car.scene(one, "train"))
                for one in symbols]  # fmt: skip
    answers = [provider.answer(match.request(one, tree, "")) for one in pictures]
    kept = [match.coarse(answer, tree, 3) for answer in answers]
    wanted = ["Road signs" if one.kind == "road_sign" else "Dashboard tell-tales" for one in symbols]
    texts = [topic.text for topic in found]
    embedder = ShippedEmbedder()
    contestants = {
        "descriptions, hashed n-grams (the default)": (embed_texts([answer["description"] for answer in answers]),
                                                       embed_texts(texts)),
        "descriptions, open4ov": (embedder.texts([answer["description"] for answer in answers]), embedder.texts(texts)),
        "pictures, open4ov": (embedder.images(pictures), embedder.texts(texts)),
    }  # fmt: skip
    lines = ["| embedded | top 5 topics under the right L2 label | pictures with all five right |", "|---|---|---|"]
    allowed = [[topic for topic in found if topic.ability[0] in one["ability"]] for one in kept]
    chance = np.mean([np.mean([topic.domain[1] == name for topic in some])
                      for some, name in zip(allowed, wanted, strict=True) if some])  # fmt: skip
    lines.append(f"| nothing: a topic at random | {chance:.1%} | |")
    for name, (images, rows) in contestants.items():
        near = match.fine(images, found, rows, kept, 5)
        right = [[topic.domain[1] == wanted[n] for topic, _ in some] for n, some in enumerate(near)]
        share = np.mean([one for some in right for one in some])
        lines.append(f"| {name} | {share:.1%} | {np.mean([all(some) for some in right]):.1%} |")
    return f"{len(symbols)} pictures, {len(found)} topics.\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calibrate", action="store_true")
    options = parser.parse_args()
    table = pq.read_table(FOLDER / "pictures.parquet", columns=["source", "id", "split"]).to_pylist()
    splits = {(row["source"], row["id"]): row["split"] for row in table}
    if options.calibrate:
        found = calibrate(Set(options.folder, "val", splits))
        CALIBRATION.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(found)
        return
    test = Set(options.folder, "test", splits)
    text = f"# The shipped embedder\n\n{machine()}- weights: {(FOLDER / 'model.safetensors').stat().st_size:,} bytes\n"
    others = json.loads(CALIBRATION.read_text("utf-8"))["others"]
    for title, part in (
        ("Captions of held-out pictures", lambda: retrieval(test, Set(options.folder, "train", splits))),
        (f"Coarse matching of held-out pictures by their folders, Others at {others}", lambda: coarse(test, others)),
        ("Fine matching of the demo", demo),
    ):
        found = f"\n## {title}\n\n{part()}\n"
        print(found, flush=True)
        text += found
    print(write("embedder", text.replace(str(options.folder), "FOLDER")))


if __name__ == "__main__":
    main()
