"""Three test pictures and questions that a user can ask the final model with `open4ov ask`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from open4ov.report.answers import Row
from open4ov.store import ImageStore, write_json

SUITES = ("in_car_en", "vertical_en", "vertical_zh", "counting", "reasoning_greedy")
"""Suites of the examples; a run has one vertical"""


def write(answers: Mapping[str, Sequence[Row]], images: ImageStore, folder: Path) -> None:
    """examples.json and the pictures it names: {image, question, answer}, one a suite of `SUITES`.

    The first question with one picture and no earlier turn that the final model answers rightly, else the first.
    """
    folder.mkdir()
    examples: list[dict[str, str]] = []
    for suite in SUITES:
        fitting = [row for row in [*answers.values()][-1] if row.suite == suite and len(row.pictures) == 1]
        fitting = [row for row in fitting if not row.earlier and images.path(row.pictures[0]).is_file()]
        if not fitting:
            continue
        row = next((row for row in fitting if row.is_right), fitting[0])
        image = f"{suite.removesuffix('_greedy')}.png"
        shutil.copyfile(images.path(row.pictures[0]), folder / image)
        examples.append({"image": image, "question": row.question, "answer": row.answers[0]})
    write_json(folder / "examples.json", examples)
