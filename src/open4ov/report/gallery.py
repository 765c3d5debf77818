"""Test pictures with the answers of base and final model side by side.

The first questions of each suite are shown, whatever the answers: nobody picked them.
"""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
from __future__ import annotations

import base64
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from open4ov.store import ImageStore, write_json

SHOWN = {
    "naming": 2,
    "colour": 1,
    "counting": 2,
    "reading": 2,
    "position": 2,
    "comparing": 1,
    "charts": 2,
    "in_car_en": 4,
    "in_car_zh": 3,
    "reasoning_greedy": 3,
    "missing_image": 3,
    "context": 1,
    "absent": 1,
}
"""Suite -> questions shown, 27 in all."""
EXAMPLES = ("in_car_en", "counting", "reasoning_greedy")
"""Suites of the three examples for `open4ov ask`."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """One question as the page shows it. `pictures` are data URIs; `base` and `final` (response, is it right)."""

    suite: str
    pictures: list[str]
    earlier: str
    question: str
    reference: str
    base: tuple[str, bool]
    final: tuple[str, bool]


def pairs(base: Path, final: Path) -> list[tuple[Row, Row]]:
    """The same questions answered by two models, in order. ValueError when they were asked different ones."""
    ours, theirs = (cast(list[Row], pq.read_table(folder / "answers.parquet").to_pylist()) for folder in (base, final))
    if [row["id"] for row in ours] != [row["id"] for row in theirs]:
        raise ValueError(f"{base.name} and {final.name} asked different questions; evaluate both alike")
    return list(zip(ours, theirs, strict=True))


def cards(pairs: list[tuple[Row, Row]], images: ImageStore) -> list[Card]:
    """The gallery: for each suite of `SHOWN`, questions spread over those whose pictures were kept."""
    made: list[Card] = []
    for suite, count in SHOWN.items():
        kept = [
            pair for pair in pairs if pair[0]["suite"] == suite and (pair[0]["pictures"] or suite == "missing_image")
        ]
        for base, final in kept[:count]:
            made.append(
                Card(
                    suite=suite,
                    pictures=[data_uri(images.path(digest)) for digest in base["pictures"]],
                    earlier=base["earlier"],
                    question=base["question"],
                    reference=_reference(base),
                    base=(base["responses"][0], base["right"][0]),
                    final=(final["responses"][0], final["right"][0]),
                )
            )
    return made


def write_examples(pairs: list[tuple[Row, Row]], images: ImageStore, folder: Path) -> None:
    """examples.json and the pictures it names: {image, question, answer}, one a suite of `EXAMPLES`.

    The first question with one picture and no earlier turn that the final model answers rightly, else the first.
    """
    folder.mkdir()
    examples: list[dict[str, str]] = []
    for suite in EXAMPLES:
        fitting = [pair for pair in pairs if pair[0]["suite"] == suite and len(pair[0]["pictures"]) == 1]
        if not fitting:
            continue
        row, _ = next((pair for pair in fitting if pair[1]["right"][0]), fitting[0])
        image = f"{suite.removesuffix('_greedy')}.png"
        shutil.copyfile(images.path(row["pictures"][0]), folder / image)
        examples.append({"image": image, "question": row["question"], "answer": row["answers"][0]})
    write_json(folder / "examples.json", examples)


def _reference(row: Row) -> str:
    return "says that there is no picture" if row["rule"] == "refusal" else row["answers"][0]


def data_uri(path: Path) -> str:
    """A PNG file as a page holds it."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
