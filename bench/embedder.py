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
from open4ov.mllm.embedder_rank import EmbedderProvider
from open4ov.mllm.embedders import ShippedEmbedder
from open4ov.mllm.embedding import embed_texts
from open4ov.mllm.towers import CALIBRATION, FOLDER, shipped, unit
from open4ov.recipe import DataSection, ProviderSection
from open4ov.recipe_embedder import EmbedderSection

KS = (1, 5, 10)
THRESHOLDS = np.round(np.arange(-0.2, 0.8, 0.01), 2)


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


def ranked(part: Set, others: float) -> tuple[int, int, int, int]:
    """(labelled pictures, of them with a fitting label among the first three above Others, pictures of no domain, of
    them with no label above Others)."""
    tree = labels.load()
    provider = EmbedderProvider(ProviderSection(kind="embedder", others=others), "bench", _Given(part),
                                EmbedderSection(name="open4ov"))  # fmt: skip
    counts = [0, 0, 0, 0]
    for number, drawing in enumerate(part.drawings):
        fitting = embedder_labels.labels(drawing.source, drawing.place)
        if fitting is None:
            continue
        answer = provider.answer(match.request(Picture(str(number), _no_pixels), tree, ""))
        kept = match.coarse(answer, tree, 3)["domain"]
        counts[0 if fitting else 2] += 1
        counts[1 if fitting else 3] += bool(fitting & set(kept)) if fitting else not kept
    return counts[0], counts[1], counts[2], counts[3]


def _no_pixels() -> Any:
    raise AssertionError("rows are known")


class _Given(ShippedEmbedder):
    """The shipped embedder over pictures whose rows are known: their number is the digest."""

    def __init__(self, part: Set) -> None:
        super().__init__()
        self._part = part

    def images(self, pictures: Any) -> Any:
        return self._part.rows[[int(one.sha) for one in pictures]]


def calibrate(val: Set) -> dict[str, Any]:
    """The threshold at which both shares of `ranked` are highest together (their mean)."""
    found: list[tuple[float, float]] = []
    for threshold in THRESHOLDS:
        labelled, right, none, empty = ranked(val, float(threshold))
        found.append(((right / labelled + empty / none) / 2, -float(threshold)))
    best = max(found)
    return {"others": -best[1], "how": "python -m bench.embedder FOLDER --calibrate, on the validation split: the mean "
            "of two shares, of labelled pictures with a fitting label among three above Others, and of pictures of no "
            "domain with none above", "mean of shares": round(best[0], 4)}  # fmt: skip


def coarse(test: Set, others: float) -> str:
    labelled, right, none, empty = ranked(test, others)
    free = ranked(test, -1.0)
    tree = labels.load()
    fitting = [found for one in test.drawings if (found := embedder_labels.labels(one.source, one.place))]
    names = len(tree.names("domain"))
    chance = np.mean([1 - _none(names, len(found), 3) for found in fitting])
    return (
        "| what | share |\n|---|---|\n"
        f"| a fitting label among the first three above Others ({labelled} pictures) | {right / labelled:.1%} |\n"
        f"| the same without Others | {free[1] / labelled:.1%} |\n"
        f"| the same by three labels at random, without Others | {chance:.1%} |\n"
        f"| no label above Others for pictures of no domain ({none}) | {empty / none:.1%} |"
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
    print(write("embedder", text))


if __name__ == "__main__":
    main()
