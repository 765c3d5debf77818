"""The formats that are rows of JSON: messages and preference pairs (lines), LLaVA, ShareGPT and LLaMA-Factory (an
array; lines are read too)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from open4ov.formats import lines
from open4ov.formats.conversations import Conversations
from open4ov.formats.messages import Messages
from open4ov.formats.preference_rows import as_pair
from open4ov.formats.preferences import FORMS, Preferences
from open4ov.formats.reading import Reading, files
from open4ov.formats.row import Codec, RowError
from open4ov.formats.writing import Splits, Writing
from open4ov.sample import Sample

CODECS: dict[str, Codec] = {
    "messages": Messages(),
    "llava": Conversations("llava", "image"),
    "sharegpt": Conversations("sharegpt", "images"),
    **{form: Preferences(form) for form in FORMS},
}
LINES = ("messages", "openrlhf", "swift", "trl")
"""Written as a row a line"""


def read(name: str, source: Path, reading: Reading) -> Iterator[Sample]:
    """The samples of a file, or of all .json and .jsonl files of a folder."""
    for file in files(source, (".json", ".jsonl")):
        for place, row in lines.read(file):
            if isinstance(row, lines.Bad):
                reading.refuse(file, place, row.reason)
                continue
            if name in FORMS:
                try:
                    row = as_pair(row)
                except RowError as error:
                    reading.refuse(file, place, str(error))
                    continue
            if (sample := reading.sample(CODECS[name], row, file, place)) is not None:
                yield sample


def write(name: str, samples: Iterable[Sample], writing: Writing) -> None:
    """One file a split: train.jsonl, or train.json for an array; images in images/."""
    array, codec = name not in LINES, CODECS[name]
    with Splits(lambda split: lines.Rows(writing.out / f"{split}.json{'' if array else 'l'}", array)) as parts:
        for sample in samples:
            if (row := writing.row(codec, sample, [writing.image_file(sha) for sha in sample.images])) is not None:
                parts[sample.split].add(row)
