"""Coarse matching against labels given by looking (paper §2.2.3). See `--help` and coarse/README.md.

    python -m bench.coarse --recipe RECIPE [RECIPE ...] [--out FOLDER] [--trained FILE]

Asks whoever plays the role `rank` in each recipe to rank the L1 labels of the pictures of `bench/coarse/`, and says how
often the kept ones and the annotated ones have one in common (the paper: 89.7 %). Nothing but the recipe is needed: an
endpoint (`kind: openai`), our own engine (`kind: engine`), or the trained embedder, which asks no model:

    data:
      embedder: open4ov
      providers: {default: {kind: catalog}, looking: {kind: embedder}}
      roles: {rank: looking}

What was trained on some of the pictures is measured on the others: FILE has their names or paths, one a line.

The catalog cannot be measured: it reads annotations, and these pictures have none that it could find.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

from bench.measure import machine, write
from open4ov import recipe as recipes
from open4ov.data import labels, match
from open4ov.data.agreement import interval
from open4ov.data.labels import AXES, LabelTree
from open4ov.errors import UserError
from open4ov.images import open_image
from open4ov.mllm import Asker, Picture
from open4ov.mllm.ask import AnswerError
from open4ov.sample import Axis

SET = Path(__file__).parent / "coarse"
PAPER = 0.897

Answer = dict[str, Any] | AnswerError


@dataclass(frozen=True)
class Shown:
    """A picture of the set, the ids of its L1 labels by axis (none for the pictures of *Others*) and its origin."""

    file: Path
    labels: dict[Axis, list[str]]
    source: str

    @property
    def kind(self) -> str:
        """What sort of picture it is, for the table by origin."""
        kinds = {"openclipart-svg": "Open Clip Art, drawings", "healthicons": "Health Icons, black symbols"}
        kinds["drawn"] = "charts, pages and screens drawn for the set"
        return kinds.get(self.source.split()[0], "photographs")

    @property
    def drawing(self) -> str:
        """The name of the file that it was made of, which says what it is wherever it lies: drawings of Open Clip Art
        are in several folders."""
        return Path(self.source).stem

    def picture(self) -> Picture:
        """Without an annotation, so that nobody who answers is told what it shows."""
        return Picture(hashlib.sha256(self.file.read_bytes()).hexdigest(), lambda: open_image(self.file))


def read(folder: Path = SET) -> tuple[list[Shown], list[Shown]]:
    """The labelled pictures, and those that belong under no label."""
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        labelled = [
            Shown(folder / "images" / row["file"], {axis: row[axis].split() for axis in AXES}, row["source"])
            for row in csv.DictReader(file)
        ]
    with (folder / "others.csv").open(encoding="utf-8", newline="") as file:
        others = [Shown(folder / "others" / row["file"], {}, row["source"]) for row in csv.DictReader(file)]
    return labelled, others


def names(shown: Sequence[Shown], tree: LabelTree, axis: Axis) -> list[list[str]]:
    """The names of the annotated labels in a tree. Raises `UserError` for a tree that lacks one of them."""
    known = {l1.id: l1.name for l1 in tree.axis(axis)}
    lacking = sorted({one for each in shown for one in each.labels[axis]} - set(known))
    if lacking:
        raise UserError(f"data.labels: the tree has no {axis} {', '.join(lacking)}, which the set uses; leave it empty")
    return [[known[one] for one in each.labels[axis]] for each in shown]


def chance(annotated: Sequence[Sequence[str]], count: int, top: int) -> float:
    """The share of pictures that a random ranking makes valid, exactly.

    `count` labels and *Others* in an order drawn evenly: *Others* has each number p of labels above it equally often,
    and the min(p, top) that are kept are any of the labels.
    """

    def valid(right: int) -> float:
        kept = [min(above, top) for above in range(count + 1)]
        return 1 - sum(comb(count - right, k) / comb(count, k) for k in kept) / (count + 1)

    return sum(valid(len(set(each))) for each in annotated) / len(annotated)


def constant(annotated: Sequence[Sequence[str]], known: Sequence[str], top: int) -> dict[str, tuple[list[str], float]]:
    """What an answer reaches that is the same for every picture: the labels most often annotated, and the best ones.

    Both are chosen on the set itself, so no ranking that has not seen it could know them.
    """

    def share(kept: Sequence[str]) -> float:
        return sum(bool(set(kept) & set(each)) for each in annotated) / len(annotated)

    often = Counter(name for each in annotated for name in each)
    frequent = sorted(known, key=lambda name: (-often[name], list(known).index(name)))[:top]
    best = max(combinations(known, min(top, len(known))), key=share)
    return {"most frequent": (frequent, share(frequent)), "best": (list(best), share(best))}


def kept(answers: Sequence[Answer], tree: LabelTree, top: int, axis: Axis) -> list[list[str]]:
    """The labels above *Others* of each picture; none where there was no usable answer, which so counts as wrong."""
    return [match.coarse(each, tree, top)[axis] if isinstance(each, dict) else [] for each in answers]


def others_first(answers: Sequence[Answer], tree: LabelTree, axis: Axis) -> int:
    """How many answers put every label of the axis below *Others*."""
    return sum(isinstance(each, dict) and not match.coarse(each, tree, 1)[axis] for each in answers)


def measured(
    shown: Sequence[Shown], answers: Sequence[Answer], beyond: Sequence[Answer], tree: LabelTree, top: int
) -> str:
    """The tables of one recipe: `answers` about the labelled pictures, `beyond` about those that belong under none.

    Raises `UserError` when no question was answered: there is nothing to measure then.
    """
    failed = [each for each in (*answers, *beyond) if isinstance(each, AnswerError)]
    if len(failed) == len(answers) + len(beyond):
        raise UserError(f"no picture was ranked; the first answer: {failed[0]}")
    lines = [
        f"| axis | images | valid | share (95 % interval) | paper | random ranking | always the {top} most frequent | "
        f"always the best {top} | labels kept, mean | of them annotated |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for axis in AXES:
        right, found = names(shown, tree, axis), kept(answers, tree, top, axis)
        told = match.overlap(found, right)
        same = constant(right, tree.names(axis), top)
        given = sum(map(len, found))
        good = sum(len(set(a) & set(b)) for a, b in zip(found, right, strict=True))
        lines.append(
            f"| {axis} | {told['images']} | {told['valid']} | {_share(told)} | {_percent(PAPER)} | "
            f"{_percent(chance(right, len(tree.axis(axis)), top))} | {_percent(same['most frequent'][1])} | "
            f"{_percent(same['best'][1])} | {given / len(found):.2f} | {_percent(good / given) if given else '-'} |"
        )
    lines += ["", "| *Others* first | of | domain | ability |", "|---|---|---|---|"]
    for title, group in (("rightly: belong under no label", beyond), ("wrongly: have labels", answers)):
        counts = [others_first(group, tree, axis) for axis in AXES]
        shares = [f"{count} ({_share(interval(count, len(group)))})" for count in counts]
        lines.append(f"| {title} | {len(group)} | {' | '.join(shares)} |")
    lines.append(f"| a random ranking | | {' | '.join(_percent(1 / (len(tree.axis(a)) + 1)) for a in AXES)} |")
    right, found = names(shown, tree, "domain"), kept(answers, tree, top, "domain")
    lines += ["", "| domain label | annotated | kept there | kept elsewhere |", "|---|---|---|---|"]
    for name in tree.names("domain"):
        pairs = [(name in a, name in b) for a, b in zip(right, found, strict=True)]
        lines.append(f"| {name} | {sum(a for a, _ in pairs)} | {sum(a and b for a, b in pairs)} | "
                     f"{sum(b and not a for a, b in pairs)} |")  # fmt: skip
    lines += ["", "| origin | images | domain: valid | share |", "|---|---|---|---|"]
    for kind in dict.fromkeys(sorted(each.kind for each in shown)):
        rows = [row for row, each in enumerate(shown) if each.kind == kind]
        told = match.overlap([found[row] for row in rows], [right[row] for row in rows])
        lines.append(f"| {kind} | {told['images']} | {told['valid']} | {_share(told)} |")
    lines += ["", f"Without a usable answer: {len(failed)} of {len(answers) + len(beyond)}, counted as not valid."]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(told: dict[str, Any]) -> str:
    return f"{_percent(told['share'])} ({100 * told['low']:.1f} to {100 * told['high']:.1f})"


def untrained(shown: Sequence[Shown], trained: Path | None) -> list[Shown]:
    """Those whose drawing is not in the list, by its name without folder and suffix. Raises `UserError`."""
    if trained is None:
        return list(shown)
    try:
        lines = trained.read_text("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--trained: {trained}: {error.strerror}") from None
    names = {Path(line.strip().removesuffix(".svg")).name for line in lines if line.strip()}
    return [each for each in shown if each.drawing not in names]


def run(path: Path, place: Path, trained: Path | None = None) -> str:
    """One recipe's part of the result. Raises `UserError` as `Asker`, `measured` and `untrained`."""
    section = recipes.load(path).data
    tree = labels.load(section.labels)
    everything = read()
    shown, others = (untrained(group, trained) for group in everything)
    left = sum(map(len, everything)) - len(shown) - len(others)
    for axis in AXES:
        names(shown, tree, axis)  # before anything is asked and paid for
    asker = Asker(section, place=place)
    requests = [match.request(each.picture(), tree, "") for each in (*shown, *others)]
    found = asker.ask_many(requests, _tell)
    tables = measured(shown, found[: len(shown)], found[len(shown) :], tree, section.top_l1)
    told = f"Left out, since it was trained on them: {left} pictures.\n\n" if trained else ""
    return f"\n## {path.name}: {asker.identity('rank')}\n\n{told}{tables}\n"


def _tell(done: int, total: int) -> None:
    if done % 20 == 0 or done == total:
        print(f"ranked {done} of {total}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, nargs="+", required=True, help="who plays the role `rank` is measured")
    parser.add_argument(
        "--out", type=Path, help="folder where answers of endpoints are kept: run again, nothing is asked twice"
    )
    parser.add_argument("--trained", type=Path, help="names of drawings that were trained on, one a line: left out")
    options = parser.parse_args()
    text = f"# Coarse matching\n\n{machine()}"
    with tempfile.TemporaryDirectory() as folder:
        for path in options.recipe:
            try:
                part = run(path, options.out or Path(folder), options.trained)
            except UserError as error:
                sys.exit(f"error: {path}: {error}")
            print(part, flush=True)
            text += part
    print(write("coarse", text))


if __name__ == "__main__":
    main()
